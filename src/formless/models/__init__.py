"""Language models: loading, exact scoring, generation, and access to single activations."""
