"""Suites: fixed sets of runs with a question of their own."""
