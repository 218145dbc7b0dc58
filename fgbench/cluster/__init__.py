"""A plan on a cluster: its units as tasks of Slurm, by submitit, and one collector of their rows."""
