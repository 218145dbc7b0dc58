"""Summaries: figures computed from the stored raw rows alone, so that they can always be computed again."""
