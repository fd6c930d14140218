"""Region features: RoIAlign on SAM's feature map, and the descriptor head."""
