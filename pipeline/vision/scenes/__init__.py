"""Scene backbones: features of both dates of a pair (equation 1), and the pretraining of the mini one."""
