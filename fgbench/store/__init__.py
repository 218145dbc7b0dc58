"""Results on disk: a folder a run, with `run.json` and tidy CSVs."""
