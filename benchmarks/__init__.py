"""Speed, memory and settings, measured; `make bench`."""
