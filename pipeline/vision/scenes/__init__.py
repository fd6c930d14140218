"""Scene backbones (equation 1), and the pretraining of the mini one."""
