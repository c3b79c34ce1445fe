"""Runs: load, unlearn, evaluate, record."""
