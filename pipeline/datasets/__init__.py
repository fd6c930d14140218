"""Data sets: each one's own layout brought into the same pair records."""
