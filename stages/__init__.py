"""One module per command that computes: its settings, if it has any of its own, and one `run(…)`."""
