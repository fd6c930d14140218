"""Grounding DINO: boxes for words, semantic regions and maps, and the training of the mini model."""
