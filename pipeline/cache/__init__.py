"""Ragged HDF5 store: flat contiguous data sets with offsets, written whole or not at all, read by memory map."""
