"""Probes made from facts and from question sets: kinds of answers, distractors, multiple choice, and new targets."""
