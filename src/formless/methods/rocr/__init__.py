"""Rank-one Concept Redirection: a training-free edit of a few down-projections (arXiv 2506.07795)."""
