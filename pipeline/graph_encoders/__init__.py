"""Encoders of the caption graph (Table 7) and their pretraining by link prediction."""
