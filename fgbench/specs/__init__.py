"""Specs: how a choice such as `forward:tangents=4` is written, checked and found."""
