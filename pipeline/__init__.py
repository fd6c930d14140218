"""What the stages are made of: data sets, caches, execution, models, training and evaluation."""
