"""Readers of data sets that need no download."""
