"""Captioners by the name that `train.captioner.kind` gives; free of torch."""

from __future__ import annotations

from typing import Any, Final

from pipeline.registry import Registry

# Naming the type of settings here would close a circle of imports.
CAPTIONERS: Final[Registry[type[Any]]] = Registry("captioner", where="train.captioner.kind")
"""Each name stands for a settings class, which names the class of the captioner that it builds."""

CAPTIONERS.register("sage-cc", "pipeline.captioners.settings:SageCCSettings", "SAGE-CC, arXiv 2511.21420")
