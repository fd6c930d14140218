"""Mutual nearest neighbours by cosine similarity: the ablation without SuperGlue (row (a) of the paper's Table 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.vision.matching.matcher import Matcher
from pipeline.vision.matching.pairs import RegionPairs


class NearestMatcher(Matcher):
    """Regions match if each is the other's nearest by descriptor; positions play no part."""

    def forward(self, pairs: RegionPairs) -> Tensor:
        """Return (B, N, N): the cosine of mutual nearest neighbours where it is positive, 0 everywhere else.

        Of equally near regions the first is the nearest.
        """
        before, after = F.normalize(pairs.descriptors, dim=-1).unbind(1)
        cosine = (before @ after.transpose(1, 2)).masked_fill(~pairs.both_valid, -torch.inf)
        of_rows = F.one_hot(cosine.argmax(2), cosine.shape[2]).bool()
        of_columns = F.one_hot(cosine.argmax(1), cosine.shape[1]).bool().transpose(1, 2)
        return torch.where(of_rows & of_columns & pairs.both_valid, cosine, 0.0).clamp(0.0, 1.0)
