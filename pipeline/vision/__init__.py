"""Vision models behind small adapters: tensors in, tensors out."""
