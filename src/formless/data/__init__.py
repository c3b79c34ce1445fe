"""Targets, their probes and texts, and corpora."""
