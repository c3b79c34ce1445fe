"""Ways to unlearn, each behind the same two calls: `unlearn` gives an `Edit`, which applies and saves."""
