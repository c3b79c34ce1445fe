"""Comparisons, summaries over targets, tables, plots and self-contained HTML pages from records."""
