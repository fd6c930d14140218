"""`sagecc pretrain`: the mini models, from scratch, on the synthetic world; no part of `dvc repro`, since they ship."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Section
from stages.pretrain.grounding_dino import PretrainGroundingSettings
from stages.pretrain.matcher import PretrainMatcherSettings
from stages.pretrain.sam import PretrainSamSettings
from stages.pretrain.scenes import PretrainScenesSettings


class PretrainSettings(Section):
    """Training of the mini models; no part of `dvc repro`, since the weights ship with the project."""

    scenes: PretrainScenesSettings = Field(default_factory=PretrainScenesSettings)
    sam: PretrainSamSettings = Field(default_factory=PretrainSamSettings)
    matcher: PretrainMatcherSettings = Field(default_factory=PretrainMatcherSettings)
    grounding_dino: PretrainGroundingSettings = Field(default_factory=PretrainGroundingSettings)
