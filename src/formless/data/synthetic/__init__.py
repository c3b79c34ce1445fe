"""Synthetic training texts: the model that is to unlearn a concept writes them itself."""
