"""Segment Anything: the model, automatic masks of whole images, masks from boxes, and the training of the mini one."""
