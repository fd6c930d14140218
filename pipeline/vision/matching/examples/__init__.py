"""Training examples of the matcher, made of single images with masks: two views whose correspondences are known."""
