"""Attacks on the weights of an edited model: each changes them, and the model is evaluated again."""
