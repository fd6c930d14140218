"""One module per DVC stage, in the order of dvc.yaml; each holds its settings and one `run(…) -> Path`."""
