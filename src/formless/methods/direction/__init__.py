"""Concept Direction Removal: a concept's mentions move against the direction that sets it apart from its neighbors."""
