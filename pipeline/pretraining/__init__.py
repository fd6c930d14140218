"""Training the mini models from scratch on the synthetic world: one resumable loop for all of them."""
