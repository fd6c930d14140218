"""Captioners: encoders, fusion, decoder and the generation engine. Models here take tensors and never read files."""
