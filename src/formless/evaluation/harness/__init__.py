"""lm-evaluation-harness: our tasks as its tasks, and its tasks beside ours in a record."""
