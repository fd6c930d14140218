"""Semantic regions that others computed, as tags, `.npy` arrays or HDF5 data sets, in place of the models' own."""
