"""Building matchers from settings and weight files, and the hints that name the command for missing weights."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.checkpoints import FOLDER, shipped
from pipeline.errors import CheckpointError, SettingsError
from pipeline.vision.matching.lightglue import LightGlue
from pipeline.vision.matching.matcher import LearnedMatcher, Matcher, NearestMatcher
from pipeline.vision.matching.settings import PUBLISHED, MatcherLayout, MatcherSettings, MatchMethod
from pipeline.vision.matching.superglue import SuperGlue
from pipeline.weights import load_exactly, load_state_dict

_PREPARED = "artifacts/prepared"
_NAMES: Mapping[MatchMethod, str] = {"superglue": "SuperGlue", "lightglue": "LightGlue", "nearest": "nearest"}


def build_matcher(settings: MatcherSettings, descriptor_width: int) -> Matcher:
    """Build a matcher with its weights, in evaluation mode.

    Published SuperGlue files (a state dict as Magic Leap's release holds it: `kenc.encoder.*`, `gnn.layers.*`,
    `final_proj.*`, `bin_score`) load with the layout `PUBLISHED`.

    Args:
        settings: The matcher.
        descriptor_width: d, channels of the regions' descriptors.

    Raises:
        CheckpointError: The weights are missing, damaged, or of another method, layout or width of descriptors.
        SettingsError: The layout does not fit the descriptors.
    """
    if settings.method == "nearest":
        return NearestMatcher().eval()
    matcher = learned_matcher(settings, descriptor_width)
    path = require_matcher_weights(settings)
    state = load_state_dict(path)
    _check_width(state, settings, descriptor_width)
    kind = f"this {_NAMES[settings.method]}"
    load_exactly(matcher, state, kind=kind, path=path, fix=_layout_hint(state, settings))
    return matcher.eval()


def require_matcher_weights(settings: MatcherSettings) -> Path:
    """Return the path of a learned matcher's weights, the mini model's in the repository where the project has none.

    Raises:
        CheckpointError: The file is missing.
    """
    path = shipped(Path(settings.weights))
    if not path.is_file():
        raise CheckpointError(
            f"the weights of {_NAMES[settings.method]} are not there",
            where=path,
            fix=f"{training_hint(settings)}, correct matches.weights, or set matches.method to nearest",
        )
    return path


def learned_matcher(settings: MatcherLayout, descriptor_width: int, *, seed: int = 0) -> LearnedMatcher:
    """Build a matcher with random weights drawn from `seed`, in training mode.

    Raises:
        SettingsError: `nearest` has nothing to learn, or the layout does not fit the descriptors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.method == "superglue":
            return _superglue(settings, descriptor_width)
        if settings.method == "lightglue":
            return LightGlue(settings.lightglue, descriptor_width)
    raise SettingsError("nearest has no weights to train", where="method", fix="set it to superglue or lightglue")


def _superglue(settings: MatcherLayout, descriptor_width: int) -> LearnedMatcher:
    layout = settings.superglue
    if not layout.project_descriptors and descriptor_width != layout.width:
        raise SettingsError(
            f"the regions' descriptors have {descriptor_width} channels, this SuperGlue takes {layout.width} as they "
            "are",
            where="superglue.project_descriptors",
            fix="set it to true and train the matcher, or make descriptors of that width in stage regions",
        )
    return SuperGlue(layout, descriptor_width)


def _check_width(state: Mapping[str, Tensor], settings: MatcherSettings, descriptor_width: int) -> None:
    """Check that weights project descriptors of this width; those of another SAM differ in it.

    Raises:
        CheckpointError: They are of another width.
    """
    # SuperGlue and LightGlue name the projection alike.
    projection = state.get("input_proj.weight")
    if projection is None or projection.dim() != 2 or projection.shape[1] == descriptor_width:
        return
    raise CheckpointError(
        f"the regions' descriptors have {descriptor_width} channels, this matcher was trained on {projection.shape[1]}",
        where=Path(settings.weights),
        fix=f"{training_hint(settings)}, pretrain.matcher.regions being as section regions; or set matches.weights "
        "to a matcher of these regions",
    )


def _layout_hint(state: dict[str, Tensor], settings: MatcherSettings) -> str:
    """Say which settings to change where weights are of another layout."""
    first = state.get("kenc.encoder.0.weight")
    if settings.method == "superglue" and first is not None and first.shape == (32, 3, 1):
        differing = {
            name: value for name, value in PUBLISHED.model_dump().items() if getattr(settings.superglue, name) != value
        }
        if differing:
            layout = ", ".join(f"{name}: {_yaml(value)}" for name, value in differing.items())
            return f"the file has the published layout; set matches.superglue to {layout}"
    return "set the method and its layout to what the file was trained with, or the weights to another file"


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def training_hint(matcher: MatcherSettings, pretrain: MatcherLayout | None = None) -> str:
    """Return the command that trains the weights of a learned matcher, given masks of the prepared images.

    Args:
        matcher: The matcher that will read them.
        pretrain: The present settings of `pretrain.matcher`; None: the defaults.

    Returns:
        The command, and the setting to change after it if it does not write to `matcher.weights`.
    """
    method = matcher.method
    layout, present = (
        settings.model_dump(mode="json").get(method, {}) for settings in (matcher, pretrain or MatcherLayout())
    )
    overrides = [f"pretrain.matcher.method={method}"]
    overrides += [
        _override(f"pretrain.matcher.{method}.{name}", value)
        for name, value in layout.items()
        if value != present[name]
    ]
    out = _training_output(Path(matcher.weights))
    command = [
        *("sagecc", "pretrain", "matcher", "--prepared", _PREPARED),
        *(word for override in overrides for word in ("--set", override)),
        *("--out", str(out)),
    ]
    follow = "" if out == Path(matcher.weights) else f" and set matches.weights to {out}"
    return f"train them on your own regions with `{shlex.join(command)}`{follow}"


def _override(key: str, value: Any) -> str:
    """Return the argument of `--set` that gives a key this plain value."""
    # --set reads YAML, of which JSON is a subset; strings need quotes only where YAML would read another type.
    plain = isinstance(value, str) and yaml.safe_load(value) == value
    return f"{key}={value if plain else json.dumps(value)}"


def _training_output(weights: Path) -> Path:
    # Never overwrite the weights that ship or Magic Leap's; training writes safetensors.
    writable = weights.suffix == ".safetensors" and weights.parent.name != "pretrained"
    return weights if writable else FOLDER / "matcher.safetensors"
