"""Training: data on the device, the loop, checkpoints."""
