"""Tasks that question a model about a target, and the record of its responses."""
