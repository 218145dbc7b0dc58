"""Experiments about fgbench itself: how fast its engine is, and how often noise fools its verdicts."""
