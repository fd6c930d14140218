"""Requests to a language model at any OpenAI-compatible endpoint: triples of captions, merging of synonyms."""
