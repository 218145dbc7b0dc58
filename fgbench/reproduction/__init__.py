"""Reproduction: the papers' experiments, their claims, and what was measured here."""
