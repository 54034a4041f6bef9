"""Comparisons as pages, plots, tables and CSV."""
