"""Benchmarks as question sets: TOFU, MUSE and WMDP, from the hub or from local copies."""
