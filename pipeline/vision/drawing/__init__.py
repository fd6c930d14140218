"""Drawings of masks, matches and semantic regions over their images."""
