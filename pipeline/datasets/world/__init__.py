"""The synthetic world: seeded pairs of overhead images with captions and complete annotations."""
