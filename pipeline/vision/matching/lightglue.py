"""LightGlue (Lindenberger et al. 2023) on padded batches, from kornia's layers."""

from __future__ import annotations

import torch
from kornia.feature.lightglue import LightGlue as KorniaLightGlue
from kornia.feature.lightglue import TransformerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.vision.matching.matcher import LearnedMatcher, RegionPairs
from pipeline.vision.matching.settings import LightGlueSettings
from pipeline.vision.matching.superglue import LOG_ZERO


class LightGlue(LearnedMatcher):
    """kornia's LightGlue without early stopping and pruning: region sets are small.

    kornia's own `forward` supports no padding, so its layers are called here. Descriptors are first scaled to unit
    length.

    Args:
        settings: The layout.
        descriptor_width: d, channels of the descriptors.
    """

    def __init__(self, settings: LightGlueSettings, descriptor_width: int) -> None:
        super().__init__()
        flash = torch.backends.cuda.flash_sdp_enabled()
        # features=None: the layout given here, and no download.
        model = KorniaLightGlue(
            features=None,  # type: ignore[arg-type]  # documented, but not annotated so
            input_dim=descriptor_width,
            descriptor_dim=settings.width,
            n_layers=settings.layers,
            num_heads=settings.heads,
            flash=False,
            depth_confidence=-1,
            width_confidence=-1,
        )
        # kornia switches the kernel off for the whole process.
        torch.backends.cuda.enable_flash_sdp(flash)
        self.input_proj, self.posenc, self.transformers = model.input_proj, model.posenc, model.transformers
        self.assignment: nn.ModuleDict = nn.ModuleDict(
            {name: getattr(model.log_assignment[-1], name) for name in ("final_proj", "matchability")}
        )

    def log_assignment(self, pairs: RegionPairs) -> Tensor:
        """See `LearnedMatcher`."""
        # One token more than there are regions, so that padding can always attend to padding: attention rows without
        # any key would be NaN.
        valid = F.pad(pairs.valid, (0, 1))
        # LightGlue's own scale: half the longer side.
        positions = _padded(1.4 * pairs.normalised_centroids, valid)
        tokens = self.input_proj(_padded(F.normalize(pairs.descriptors, dim=-1), valid))
        before, after = tokens.unbind(1)
        codes = [self.posenc(positions[:, date]) for date in (0, 1)]
        own = [(mask[:, :, None] == mask[:, None, :])[:, None] for mask in valid.unbind(1)]
        # Where a date has no region, the other one attends to padding and only has the dustbin to match.
        empty = ~pairs.valid.any(2).all(1)
        other = ((valid[:, 0, :, None] == valid[:, 1, None, :]) | empty[:, None, None])[:, None]
        for layer in self.transformers:
            assert isinstance(layer, TransformerLayer)
            before, after = layer.self_attn(before, codes[0], own[0]), layer.self_attn(after, codes[1], own[1])
            before, after = layer.cross_attn(before, after, other)
        return self._double_softmax(before[:, :-1], after[:, :-1], pairs)

    def _double_softmax(self, before: Tensor, after: Tensor, pairs: RegionPairs) -> Tensor:
        """Return the log-assignment of LightGlue's equations (6) and (7), padding left out of both softmaxes."""
        width = before.shape[-1]
        projected = [self.assignment["final_proj"](tokens) / width**0.25 for tokens in (before, after)]
        similarity = projected[0] @ projected[1].transpose(1, 2)
        logits = [self.assignment["matchability"](tokens).squeeze(-1) for tokens in (before, after)]
        both_valid = pairs.both_valid
        masked = similarity.masked_fill(~both_valid, LOG_ZERO)
        table = (
            masked.log_softmax(2)
            + masked.log_softmax(1)
            + F.logsigmoid(logits[0])[:, :, None]
            + F.logsigmoid(logits[1])[:, None, :]
        )
        table = table.masked_fill(~both_valid, LOG_ZERO)
        rows = F.logsigmoid(-logits[0]).masked_fill(~pairs.valid[:, 0], LOG_ZERO)
        columns = F.logsigmoid(-logits[1]).masked_fill(~pairs.valid[:, 1], LOG_ZERO)
        corner = torch.full_like(rows[:, :1], LOG_ZERO)
        return torch.cat(
            [torch.cat([table, rows[:, :, None]], dim=2), torch.cat([columns, corner], dim=1)[:, None]], dim=1
        )


def _padded(x: Tensor, valid: Tensor) -> Tensor:
    """Append a token to `x` (B, 2, N, c), and zero those that are not `valid` (B, 2, N + 1)."""
    return torch.where(valid[..., None], F.pad(x, (0, 0, 0, 1)), 0.0)
