"""Probes made from facts: kinds of answers, distractors, multiple choice, true or false, and new targets."""
