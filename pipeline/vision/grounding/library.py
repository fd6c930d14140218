"""The classes of groundingdino-py, imported and run without the deprecation warnings of an older library."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.vision.grounding.sampling import sample


@contextmanager
def quiet() -> Iterator[None]:
    """Silence exactly what importing and running groundingdino's modules is known to warn of, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Importing from timm\.models\.layers is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Failed to load custom C\\+\\+ ops", UserWarning)
        warnings.filterwarnings("ignore", r".*torch\.cuda\.amp\.autocast\(args", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.meshgrid: in an upcoming release", UserWarning)
        warnings.filterwarnings("ignore", "The `device` argument is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "invalid escape sequence", DeprecationWarning)
        yield


with quiet():
    from groundingdino.models.GroundingDINO import ms_deform_attn
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import PositionEmbeddingSineHW
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.models.GroundingDINO.fuse_modules import BiMultiHeadAttention
    from groundingdino.models.GroundingDINO.groundingdino import GroundingDINO
    from groundingdino.models.GroundingDINO.transformer import Transformer
    from groundingdino.models.GroundingDINO.utils import MLP, gen_encoder_output_proposals
    from groundingdino.util import get_tokenlizer as text_models
    from groundingdino.util.misc import NestedTensor, inverse_sigmoid

ms_deform_attn.multi_scale_deformable_attn_pytorch = sample

__all__ = [
    "MLP",
    "BiMultiHeadAttention",
    "GroundingDINO",
    "Joiner",
    "NestedTensor",
    "PositionEmbeddingSineHW",
    "SwinTransformer",
    "Transformer",
    "gen_encoder_output_proposals",
    "inverse_sigmoid",
    "quiet",
    "text_models",
]
