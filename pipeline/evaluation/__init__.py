"""Scores of captions: the field's metrics, over subsets, beside trivial rows, with mean and deviation over seeds."""
