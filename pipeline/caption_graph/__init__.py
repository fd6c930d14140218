"""The caption knowledge graph: triples of the training captions, merged, filtered, counted, with node features."""
