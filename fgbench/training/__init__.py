"""Training: the training loop, the learning-rate search and the time to a target."""
