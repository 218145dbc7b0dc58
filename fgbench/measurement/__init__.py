"""Measurement: time, memory and what they are worth. It knows nothing of jobs, and could be a library."""
