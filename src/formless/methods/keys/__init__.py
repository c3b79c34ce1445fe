"""What closed-form edits of names share: contexts, names, keys and values at their tokens, and the update solved from them."""
