"""Speed, memory, growth and settings, measured; `python -m benchmarks --help`."""
