"""From settings to a matcher, its weights loaded: trained here, or SuperGlue's published ones.

How one gets a matcher's weights: it is trained on the regions that one's own SAM finds in one's own images.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pipeline.checkpoints import FOLDER
from pipeline.errors import CheckpointError, SettingsError
from pipeline.vision.matching.lightglue import LightGlue
from pipeline.vision.matching.matcher import LearnedMatcher, Matcher, NearestMatcher
from pipeline.vision.matching.settings import PUBLISHED, MatcherLayout, MatcherSettings, MatchMethod
from pipeline.vision.matching.superglue import SuperGlue
from pipeline.weights import load_exactly, load_state_dict

_PREPARED = "artifacts/prepared"
_MASKS = "artifacts/caches/masks.h5"


def training_advice(wanted: MatcherSettings, given: MatcherLayout | None = None, changes: Iterable[str] = ()) -> str:
    """Say how to train the weights of a learned matcher, once there are masks of the prepared images.

    Args:
        wanted: The matcher that is to read them.
        given: What `pretrain.matcher` says at present; None: the defaults.
        changes: Further assignments for `--set`.

    Returns:
        The command; and the setting that must follow it, where it does not write to `wanted.weights`.
    """
    given = given or MatcherLayout()
    method = wanted.method
    layout, present = (part.model_dump(mode="json").get(method, {}) for part in (wanted, given))
    differing = [
        assignment(f"pretrain.matcher.{method}.{name}", value)
        for name, value in layout.items()
        if value != present[name]
    ]
    out = _output(Path(wanted.weights))
    assignments = (f"pretrain.matcher.method={method}", *differing, *changes)
    command = [
        *("sagecc", "pretrain", "matcher", "--prepared", _PREPARED, "--masks", _MASKS),
        *(word for assignment in assignments for word in ("--set", assignment)),
        *("--out", str(out)),
    ]
    follow = "" if out == Path(wanted.weights) else f" and set matches.weights to {out}"
    return f"train them on your own regions with `{shlex.join(command)}`{follow}"


def assignment(key: str, value: Any) -> str:
    """Return what `--set` takes to give a key this plain value."""
    # --set reads YAML, of which JSON is a part; words stay as they are unless they would be read as something else.
    plain = isinstance(value, str) and yaml.safe_load(value) == value
    return f"{key}={value if plain else json.dumps(value)}"


def _output(weights: Path) -> Path:
    # Neither what ships nor what Magic Leap publishes is to be overwritten, and training writes safetensors.
    own = weights.suffix == ".safetensors" and weights.parent.name != "pretrained"
    return weights if own else FOLDER / "matcher.safetensors"


_NAMES: Mapping[MatchMethod, str] = {"superglue": "SuperGlue", "lightglue": "LightGlue", "nearest": "nearest"}


def build_matcher(settings: MatcherSettings, descriptor_width: int) -> Matcher:
    """Build the matcher with its weights, in evaluation mode.

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
    path = require_weights(settings)
    state = load_state_dict(path)
    _check_width(state, settings, descriptor_width)
    kind = f"this {_NAMES[settings.method]}"
    load_exactly(matcher, state, kind=kind, path=path, fix=_advice(state, settings))
    return matcher.eval()


def require_weights(settings: MatcherSettings) -> Path:
    """Return the file of a learned matcher's weights.

    Raises:
        CheckpointError: It is not there.
    """
    path = Path(settings.weights)
    if not path.is_file():
        raise CheckpointError(
            f"the weights of {_NAMES[settings.method]} are not there",
            where=path,
            fix=f"{training_advice(settings)}, correct matches.weights, or set matches.method to nearest",
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
            # kornia is slow to load, and only this needs it.

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
    """Refuse weights that project descriptors of another width, as those of another SAM do.

    Raises:
        CheckpointError: They do.
    """
    # SuperGlue's and LightGlue's projection have the same name.
    projection = state.get("input_proj.weight")
    if projection is None or projection.dim() != 2 or projection.shape[1] == descriptor_width:
        return
    raise CheckpointError(
        f"the regions' descriptors have {descriptor_width} channels, this matcher was trained on {projection.shape[1]}",
        where=Path(settings.weights),
        fix=f"{training_advice(settings)}, pretrain.matcher.regions being as section regions; or set matches.weights "
        "to a matcher of these regions",
    )


def _advice(state: dict[str, Tensor], settings: MatcherSettings) -> str:
    first = state.get("kenc.encoder.0.weight")
    if settings.method == "superglue" and first is not None and first.shape == (32, 3, 1):
        differing = {
            name: value for name, value in PUBLISHED.model_dump().items() if getattr(settings.superglue, name) != value
        }
        if differing:
            wanted = ", ".join(f"{name}: {_yaml(value)}" for name, value in differing.items())
            return f"the file has the published layout; set matches.superglue to {wanted}"
    return "set the method and its layout to what the file was trained with, or the weights to another file"


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
