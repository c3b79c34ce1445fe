"""The training methods: ONE FILE PER METHOD, each a `Recipe` with its settings."""
