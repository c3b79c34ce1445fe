"""Texts that a model writes and that methods train on."""
