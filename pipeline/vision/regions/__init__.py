"""Region features: RoIAlign of the masks' boxes on SAM's feature map, and the head that makes descriptors of them."""
