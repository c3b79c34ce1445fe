"""The tasks: one file for each kind of question, with its prompt, scoring and metrics in sight of each other."""
