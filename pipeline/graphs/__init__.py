"""Encoders of the caption graph and their pretraining; they know tensors and nothing of captions or files."""
