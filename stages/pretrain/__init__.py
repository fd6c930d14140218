"""`sagecc pretrain`: the mini models, trained from scratch on the synthetic world; no part of `dvc repro`."""
