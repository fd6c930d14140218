"""Named starting points for params.yaml: what each data set needs that differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoints import missing_advice
from pipeline.config import Section, parse_section, render_params, with_overrides
from pipeline.errors import SettingsError
from pipeline.vision.matching.build import training_hint
from pipeline.vision.sam.settings import PUBLISHED_GENERATOR
from stages.settings import SECTIONS, MatchesSettings, PrepareSettings, PretrainSettings, RegionsSettings

# ResNet-101 at 256 pixels, with each data set's own normalisation: the authors' release.
_RESNET101 = {"backbone": "resnet101", "weights": "artifacts/checkpoints/resnet101-63fe2227.pth", "size": 256}
_LEVIR = {**_RESNET101, "mean": [100.6790, 99.5023, 84.9932], "std": [50.9820, 48.4838, 44.7057]}
_DUBAI = {**_RESNET101, "mean": [156.0681, 115.0891, 92.0745], "std": [76.5139, 52.0616, 44.4209]}
_WHU = {**_RESNET101, "mean": [123.8806, 118.6361, 108.5552], "std": [49.5580, 47.7908, 50.2587]}

# SAM and Grounding DINO as published, and a matcher trained on the regions that SAM finds: `sagecc pretrain matcher`.
_SAM = {"variant": "vit_h", "weights": "artifacts/checkpoints/sam_vit_h_4b8939.pth"}
_REGIONS: dict[str, dict[str, Any]] = {
    "masks": {
        "sam": _SAM,
        "generator": PUBLISHED_GENERATOR.model_dump(),
    },
    "matches": {"weights": "artifacts/checkpoints/matcher.safetensors"},
    "semantics": {
        "sam": _SAM,
        "grounding": {
            "variant": "swin_t",
            "weights": "artifacts/checkpoints/groundingdino_swint_ogc.pth",
            "text_encoder": "artifacts/checkpoints/bert-base-uncased",
        },
    },
}

# Where precision and recall of the mini matcher's unmatched regions meet, on scenes of another seed than any other; at
# the paper's 0.2 it calls too many of them unmatched.
_MINI_MATCHES: dict[str, Any] = {"assignment": {"threshold": 0.05}}

# A captioner that learns in minutes on two CPU cores. Of real images the mini models, which have seen nothing but the
# synthetic world, tell it little, so that profiles with these take scenes alone.
_SMALL: dict[str, Any] = {"scene": {"width": 128, "heads": 4}, "decoder": {"width": 128, "heads": 4}}
# All of SAGE-CC, as small. Of the two fusions the release's learns the synthetic world better (docs/results.md);
# regions are dropped because 800 pairs are soon known by heart.
_SMALL_FUSED = {**_SMALL, "fusion": "release", "evidence": {"drop": 0.2}, "release": {"heads": 4}}
# The likeliest sentence denies a change too often; see `pipeline.training.inference`.
_BY_MASS = {"change": "mass", "beams": 5, "length_penalty": 1.0}
# One for real data on a GPU; the paper gives no widths, the release's 2048 is sixteen times dearer.
_LARGE = {"scene": {"width": 512, "blocks": 3}, "decoder": {"width": 512}, "fusion": "paper"}
_TRAIN_LARGE = {"captioner": _LARGE}
# One that reads tags instead of scenes, on two CPU cores in minutes.
_TRAIN_TAGS = {
    "name": "tags",
    "epochs": 24,
    "learning_rate": 1.0e-3,
    "decay_every": 6,
    "label_smoothing": 0.1,
    "captions_per_pair": "one",
    "hold_out": 0.1,
    "select": "cider_d",
    "validate_every": 2,
    "captioner": {
        "scene": {"features": "none"},
        "decoder": {"width": 128, "heads": 4, "spatial_bias": False, "dropout": 0.2},
        "fusion": "release",
        "evidence": {"motion": False, "graph": False},
        "release": {"heads": 4, "dropout": 0.2},
    },
}

# In the order of the stages; the matcher comes last, since it wants the masks that SAM makes.
_MODEL_FILES = (
    "scenes.weights",
    "masks.sam.weights",
    "regions.head.weights",
    "semantics.grounding.weights",
    "semantics.grounding.text_encoder",
    "semantics.sam.weights",
    "semantics.head.weights",
    "matches.weights",
)

WITHOUT_IMAGES = ("prepare", "semantics", "train", "caption", "evaluate")
"""Stages of a data set that is prepared without images, its semantic regions being imported."""

PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic": {
        "engine": {"engine": "local"},
        # The generator's code is what the synthetic data set is made from, so DVC watches it as the data root.
        "prepare": {"dataset": "synthetic", "root": "pipeline/datasets/world"},
        # 32 kB an image, and neither regions nor semantics encodes again.
        "masks": {"store_embeddings": True},
        "matches": _MINI_MATCHES,
        # More than 1e-4 and fewer epochs than the paper: the captioner is small and the time short.
        "train": {
            "epochs": 12,
            "learning_rate": 1.0e-3,
            "decay_every": 3,
            "select": "cider_d",
            "validate_every": 2,
            "captioner": _SMALL_FUSED,
        },
        "caption": _BY_MASS,
    },
    "levir-cc": {**_REGIONS, "prepare": {"dataset": "levir-cc"}, "scenes": _LEVIR, "train": _TRAIN_LARGE},
    # Real captions and the object tags of the real images, no pixels: it runs prepare, semantics, train, caption and
    # evaluate; scenes, masks, regions and matches refuse it. There is no test split at hand, so the validation split
    # is described, and the checkpoint is chosen on training pairs that are held out (docs/architecture.md).
    "levir-cc-tags": {
        "prepare": {"dataset": "levir-cc", "images": "none"},
        "semantics": {"source": {"kind": "tags", "file": "object_tags_{split}.json"}},
        "train": _TRAIN_TAGS,
        # The lower threshold weighs S*m of all pairs against CIDEr-D of the changed ones; see docs/results.md.
        "caption": {**_BY_MASS, "split": "val", "beams": 10, "change_threshold": 0.4},
    },
    "levir-mci": {**_REGIONS, "prepare": {"dataset": "levir-mci"}, "scenes": _LEVIR, "train": _TRAIN_LARGE},
    "dubai-cc": {
        **_REGIONS,
        "prepare": {"dataset": "dubai-cc", "vocabulary": {"min_count": 1, "max_length": 27}},
        "scenes": _DUBAI,
        # 1,500 training captions bear no k of 50: 10 leaves 35 entities and 28 relations.
        "graph": {"build": {"min_count": 10}},
        "train": _TRAIN_LARGE,
    },
    "whu-cdc": {**_REGIONS, "prepare": {"dataset": "whu-cdc"}, "scenes": _WHU, "train": _TRAIN_LARGE},
    # Counts and length of the data set's own paper: words seen more than ten times, captions of up to 50 tokens.
    "second-cc": {
        **_REGIONS,
        "prepare": {"dataset": "second-cc", "vocabulary": {"min_count": 11, "max_length": 50}},
        "scenes": _RESNET101,
        "train": _TRAIN_LARGE,
    },
    # Own pairs may be few: every word counts, and the backbone is the one that ships.
    "folder": {
        "prepare": {"dataset": "folder", "vocabulary": {"min_count": 1}},
        "scenes": {"size": 128},
        "matches": _MINI_MATCHES,
        "graph": {"build": {"min_count": 1}},
        "train": {"captioner": _SMALL},
    },
}
"""Overrides by profile, section and key; everything else keeps its default."""


MINI: dict[str, dict[str, Any]] = {
    "scenes": {"size": 128},
    "masks": {},
    "matches": _MINI_MATCHES,
    "semantics": {},
    "train": {"captioner": _SMALL},
}
"""What takes the place of a profile's models when the mini ones that ship are asked for; at 128 pixels LEVIR-CC's half
metre becomes the metre per pixel that they were trained at."""


def profile_sections(
    profile: str, root: str | None, assignments: Iterable[str] = (), *, mini: bool = False
) -> dict[str, Section]:
    """Return every section of a profile.

    Args:
        profile: A key of `PROFILES`.
        root: The data set's folder; the synthetic profile needs none.
        mini: Use the mini models that ship instead of published checkpoints.
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
    if mini:
        document = {**document, **MINI}
    document = with_overrides(document, assignments)
    unknown = next((name for name in document if name not in SECTIONS), None)
    if unknown is not None:
        raise SettingsError(f"no section is called `{unknown}`", where="--set", fix=f"one of: {', '.join(SECTIONS)}")
    return {
        name: parse_section(document.get(name, {}), name, kind, where=f"profile {profile}")
        for name, kind in SECTIONS.items()
    }


def render_profile(profile: str, sections: Mapping[str, Section]) -> str:
    """Write the sections as the text of params.yaml.

    Settings that no stage of dvc.yaml reads, those of the mini models' trainings, are written only where they differ
    from the defaults.
    """
    heading = (
        f"Active settings, written from profile `{profile}` by `sagecc init`; one section per stage. "
        f"Change a value and run `{next_command(sections)}`: what depends on it is built again."
    )
    written = {name: section for name, section in sections.items() if name != "pretrain" or section != type(section)()}
    return render_params(written, heading=heading)


def missing_files(sections: Mapping[str, Section]) -> list[tuple[Path, str]]:
    """List the models that `dvc repro` would stop for want of, each with how to get it; SAM's, read twice, once.

    Empty where `next_command` is another: those stages read no model.
    """
    if next_command(sections) != "dvc repro":
        return []
    found: dict[Path, str] = {}
    for setting in _MODEL_FILES:
        section, *keys = setting.split(".")
        value: Any = sections[section]
        for key in keys:
            value = getattr(value, key)
        if value is not None:
            found.setdefault(Path(value) / "vocab.txt" if keys[-1] == "text_encoder" else Path(value), setting)
    return [(path, _advice(path, setting, sections)) for path, setting in found.items() if not path.is_file()]


def _advice(path: Path, setting: str, sections: Mapping[str, Section]) -> str:
    """Say how to get the missing file that a setting names."""
    known = missing_advice(path)
    if known is not None:
        return known
    matches, pretrain, regions = (sections[name] for name in ("matches", "pretrain", "regions"))
    if setting != "matches.weights" or not (
        isinstance(matches, MatchesSettings)
        and isinstance(pretrain, PretrainSettings)
        and isinstance(regions, RegionsSettings)
    ):
        return f"put it there, or set {setting}"
    if matches.method == "nearest":
        shipped = MatchesSettings().weights
        return f"nearest does not read it, but DVC wants a file to be there: set {setting} to {shipped}"
    changes = [
        assignment(f"pretrain.matcher.regions.{part}.{name}", value)
        for part in ("roi", "head")
        for name, value in getattr(regions, part).model_dump(mode="json").items()
        if value != getattr(getattr(pretrain.matcher.regions, part), name)
    ]
    training = training_hint(matches, pretrain.matcher, changes)
    return f"after `dvc repro masks`, {training}; or put a matcher of them there"


def next_command(sections: Mapping[str, Section]) -> str:
    """Return what runs the stages that these settings can run: all of dvc.yaml, unless there are no images."""
    prepare = sections["prepare"]
    if isinstance(prepare, PrepareSettings) and prepare.images == "none":
        return " && ".join(f"sagecc {stage}" for stage in WITHOUT_IMAGES)
    return "dvc repro"
