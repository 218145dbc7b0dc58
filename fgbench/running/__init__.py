"""Running a plan: phase by phase, each in fresh worker processes, into a run folder."""
