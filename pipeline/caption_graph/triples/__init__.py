"""Triples ⟨head; relation; tail⟩ of change captions: records, the convention they follow, and the rule engine."""
