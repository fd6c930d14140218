"""Captions as words and as numbers: tokenizer, vocabulary, and what a sentence says about change."""
