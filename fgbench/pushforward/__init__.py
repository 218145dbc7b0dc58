"""Forward mode for PyTorch modules: k tangents through a model in one pass of plain tensor operations."""
