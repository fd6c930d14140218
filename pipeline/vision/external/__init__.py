"""Semantic regions that other programs computed: tags, `.npy` arrays or HDF5 data sets."""
