"""Regression: compare stored ratios with a baseline, and judge each change."""
