"""Named starting points for params.yaml: what each data set needs that differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config import Section, parse_section, render_params, with_overrides
from pipeline.errors import SettingsError
from stages.sections import SECTIONS

# ResNet-101 at 256 pixels, with each data set's own normalisation: the authors' release.
_RESNET101 = {"backbone": "resnet101", "weights": "artifacts/checkpoints/resnet101-63fe2227.pth", "size": 256}
_LEVIR = {**_RESNET101, "mean": [100.6790, 99.5023, 84.9932], "std": [50.9820, 48.4838, 44.7057]}
_DUBAI = {**_RESNET101, "mean": [156.0681, 115.0891, 92.0745], "std": [76.5139, 52.0616, 44.4209]}
_WHU = {**_RESNET101, "mean": [123.8806, 118.6361, 108.5552], "std": [49.5580, 47.7908, 50.2587]}

PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    # The generator's code is what the synthetic data set is made from, so DVC watches it as the data root.
    "synthetic": {"prepare": {"dataset": "synthetic", "root": "pipeline/datasets/world"}},
    "levir-cc": {"prepare": {"dataset": "levir-cc"}, "scenes": _LEVIR},
    "levir-mci": {"prepare": {"dataset": "levir-mci"}, "scenes": _LEVIR},
    "dubai-cc": {"prepare": {"dataset": "dubai-cc"}, "scenes": _DUBAI},
    "whu-cdc": {"prepare": {"dataset": "whu-cdc"}, "scenes": _WHU},
    "second-cc": {"prepare": {"dataset": "second-cc"}, "scenes": _RESNET101},
    "folder": {"prepare": {"dataset": "folder"}, "scenes": {"size": 128}},
}
"""Overrides by profile, section and key; everything else keeps its default."""


def profile_sections(profile: str, root: str | None, assignments: Iterable[str] = ()) -> dict[str, Section]:
    """Return every section of a profile.

    Args:
        profile: A key of `PROFILES`.
        root: The data set's folder; the synthetic profile needs none.
        assignments: Further `section.key=value` changes.

    Raises:
        SettingsError: The profile is unknown, the root is missing, or an assignment is wrong.
    """
    if profile not in PROFILES:
        raise SettingsError(f"no profile is called {profile!r}", fix=f"one of: {', '.join(PROFILES)}")
    document: Mapping[str, Any] = PROFILES[profile]
    if root is not None:
        if profile == "synthetic":
            raise SettingsError("the synthetic world is generated: it has no --root")
        document = {**document, "prepare": {**document["prepare"], "root": root}}
    elif profile != "synthetic":
        raise SettingsError(f"where is the data set {profile}?", fix=f"sagecc init {profile} --root FOLDER")
    document = with_overrides(document, assignments)
    unknown = next((name for name in document if name not in SECTIONS), None)
    if unknown is not None:
        raise SettingsError(f"no section is called `{unknown}`", where="--set", fix=f"one of: {', '.join(SECTIONS)}")
    return {
        name: parse_section(document.get(name, {}), name, kind, where=f"profile {profile}")
        for name, kind in SECTIONS.items()
    }


def render_profile(profile: str, sections: Mapping[str, Section]) -> str:
    """Write the sections as the text of params.yaml."""
    heading = (
        f"Active settings, written from profile `{profile}` by `sagecc init`; one section per stage. "
        "Change a value and run `dvc repro`: what depends on it is built again."
    )
    return render_params(sections, heading=heading)
