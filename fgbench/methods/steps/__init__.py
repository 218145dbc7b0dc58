"""What methods share: steps of several kinds, optimisers, execution modes, estimates and the oracle."""
