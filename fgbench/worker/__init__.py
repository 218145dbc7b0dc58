"""The worker: one fresh process that does one phase of one matched group and reports it line by line.

Spoken to by the runner over pipes: one JSON object in (what to do), JSON lines out (what happened).
"""
