"""Regression: stored ratios against a baseline, and what may be said of each."""
