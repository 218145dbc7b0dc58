"""Summaries: figures that are computed from the stored raw rows alone, and can be computed again."""
