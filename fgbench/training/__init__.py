"""Training: the loop, the learning-rate search and the time to a target."""
