"""The `sagecc` command: it parses, calls a stage and prints; it holds no logic of its own."""
