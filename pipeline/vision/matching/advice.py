"""How one gets a matcher's weights: it is trained on the regions that one's own SAM finds in one's own images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pipeline.checkpoints import FOLDER
from pipeline.vision.matching.settings import MatcherLayout, MatcherSettings

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
