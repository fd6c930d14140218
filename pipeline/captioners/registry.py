"""Captioners by the name that `train.captioner.kind` gives; free of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.registry import Registry

if TYPE_CHECKING:
    from pipeline.captioners.settings import CaptionerSettings

CAPTIONERS: Final[Registry[type[CaptionerSettings]]] = Registry("captioner", where="train.captioner.kind")
"""Each name stands for a settings class, which names the class of the captioner that it builds."""

CAPTIONERS.register("sage-cc", "pipeline.captioners.settings:SageCCSettings", "SAGE-CC, arXiv 2511.21420")
