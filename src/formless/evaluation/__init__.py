"""Question a model about a target in every form, and record what it answers."""
