"""Summaries: what the raw rows say, derived from them alone and rebuilt at will."""
