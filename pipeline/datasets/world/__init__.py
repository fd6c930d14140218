"""The synthetic world: seeded pairs of overhead pictures with captions and everything that is true of them."""
