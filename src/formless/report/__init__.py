"""Tables, charts and one self-contained HTML page from records."""
