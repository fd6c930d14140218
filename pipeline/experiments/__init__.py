"""Experiments: rows of settings that are trained and scored alike, and the table that puts them side by side."""
