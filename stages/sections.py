"""The sections of params.yaml, in the order of the stages."""

from __future__ import annotations

from pipeline.config import Section
from pipeline.execution.settings import EngineSettings
from stages.caption import CaptionSettings
from stages.evaluate import EvaluateSettings
from stages.graph import GraphSettings
from stages.masks import MasksSettings
from stages.matches import MatchesSettings
from stages.prepare import PrepareSettings
from stages.pretrain import PretrainSettings
from stages.regions import RegionsSettings
from stages.scenes import ScenesSettings
from stages.semantics import SemanticsSettings
from stages.train import TrainSettings

SECTIONS: dict[str, type[Section]] = {
    "prepare": PrepareSettings,
    "scenes": ScenesSettings,
    "masks": MasksSettings,
    "regions": RegionsSettings,
    "matches": MatchesSettings,
    "semantics": SemanticsSettings,
    "graph": GraphSettings,
    "train": TrainSettings,
    "caption": CaptionSettings,
    "evaluate": EvaluateSettings,
    "engine": EngineSettings,
    "pretrain": PretrainSettings,
}
