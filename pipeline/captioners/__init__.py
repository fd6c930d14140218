"""Captioners: scene encoder, decoder, generation engine, SAGE-CC. Models here take tensors and never read files."""

from __future__ import annotations

from pipeline.captioners.settings import CaptionerSettings, DecoderSettings, GenerationSettings, SceneEncoderSettings

__all__ = ["CaptionerSettings", "DecoderSettings", "GenerationSettings", "SceneEncoderSettings"]
