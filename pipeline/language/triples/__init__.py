"""Triples ⟨head; relation; tail⟩ of change captions: records, the convention they follow, and the engine of rules."""
