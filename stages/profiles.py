"""Named starting points for params.yaml: what each data set needs that differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoints import missing_advice, shipped
from pipeline.config import Section, with_overrides
from pipeline.datasets.adapters.base import dataset_profiles
from pipeline.datasets.paths import check_root
from pipeline.datasets.settings import SYNTHETIC
from pipeline.errors import SageccError, SettingsError
from pipeline.path_settings import expanded
from pipeline.vision.matching.build import training_hint
from pipeline.vision.sam.settings import PUBLISHED_GENERATOR
from stages.settings import (
    MatchesSettings,
    PrepareSettings,
    PretrainSettings,
    own_settings,
    parse_sections,
    render_sections,
)

# ResNet-101 at 256 pixels, as in the authors' release; each data set has its own normalisation.
_RESNET101 = {"backbone": "resnet101", "weights": "artifacts/checkpoints/resnet101-63fe2227.pth", "size": 256}

# SAM and Grounding DINO as published, and a matcher trained on the regions that SAM finds: `sagecc pretrain matcher`.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "models": {
        "backbone": _RESNET101,
        "sam": {"variant": "vit_h", "weights": "artifacts/checkpoints/sam_vit_h_4b8939.pth"},
        "grounding_dino": {
            "variant": "swin_t",
            "weights": "artifacts/checkpoints/groundingdino_swint_ogc.pth",
            "text_encoder": "artifacts/checkpoints/bert-base-uncased",
        },
    },
    "masks": {"generator": PUBLISHED_GENERATOR.model_dump()},
    "matches": {"weights": "artifacts/checkpoints/matcher.safetensors"},
}

# Where precision and recall of the mini matcher's unmatched regions meet, on scenes of another seed than any other; at
# the paper's 0.2 it calls too many of them unmatched.
_MINI_MATCHES: dict[str, Any] = {"assignment": {"threshold": 0.05}}

# A captioner that learns in minutes on two CPU cores. Of real images the mini models, which have seen nothing but the
# synthetic world, tell it little, so that profiles with these take scenes alone.
_SMALL: dict[str, Any] = {"scene": {"width": 128, "heads": 4}, "decoder": {"width": 128, "heads": 4}}
# All of SAGE-CC, as small. Of the two fusions the release's learns the synthetic world better (docs/results.md);
# regions are dropped because 800 pairs are soon known by heart.
_SMALL_FUSED = {**_SMALL, "fusion": "release", "inputs": {"drop": 0.2}, "release": {"heads": 4}}
# The likeliest sentence denies a change too often; see `pipeline.training.inference`.
_BY_MASS = {"change": "mass", "beams": 5, "length_penalty": 1.0}
# One for real data on a GPU; the paper gives no widths, the release's 2048 is sixteen times dearer.
_LARGE = {"scene": {"width": 512, "blocks": 3}, "decoder": {"width": 512}, "fusion": "paper"}
# The paper's rate is halved every fifth epoch: how much is learnt follows from the steps of an epoch, and those of the
# release take a caption each. With a pair each LEVIR-CC has a fifth of them (213 for 1,065) and learns too little
# (docs/results.md).
_TRAIN_LARGE = {"captions_per_pair": "each", "captioner": _LARGE}
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
        "inputs": {"regions": False, "graph": False},
        "release": {"heads": 4, "dropout": 0.2},
    },
}

# In the order of the stages; the matcher comes last, since it wants the masks that SAM makes.
_MODEL_FILES = (
    "models.backbone.weights",
    "models.sam.weights",
    "models.head.weights",
    "models.grounding_dino.weights",
    "models.grounding_dino.text_encoder",
    "matches.weights",
)

SHOWN = frozenset(
    {
        "models.backbone",
        "models.backbone.backbone",
        "models.backbone.weights",
        "models.sam.variant",
        "models.sam.weights",
        "models.grounding_dino.variant",
        "models.grounding_dino.weights",
        "models.grounding_dino.text_encoder",
        "models.roi",
        "models.head",
        "models.head.kind",
        "models.graph_encoder",
        "models.graph_encoder.kind",
        "models.text_encoder",
        "models.text_encoder.encoder",
        "prepare.dataset",
        "prepare.root",
        "matches.weights",
        "semantics.grounding.prompts",
        "graph.build.min_count",
        "train.name",
        "train.seeds",
        "train.epochs",
        "train.batch_size",
        "train.learning_rate",
        "train.captioner.fusion",
        "caption.beams",
        "caption.change",
        "engine.engine",
        "engine.workers",
        "engine.device",
    }
)
"""Keys that `sagecc init` writes whatever their values: those that people change, and those that dvc.yaml names."""

WITHOUT_IMAGES = ("prepare", "semantics", "train", "caption", "evaluate")
"""Stages of a data set that is prepared without images, its semantic regions being imported."""

MINI: dict[str, dict[str, Any]] = {
    "models": {"backbone": {"size": 128}},
    "masks": {},
    "matches": _MINI_MATCHES,
    "semantics": {},
    # A pair with all its captions is a step's sample here, which spares a CPU four of five encoder passes; the higher
    # rate, that of the synthetic profile, makes up for the fewer steps.
    "train": {"learning_rate": 1.0e-3, "captioner": _SMALL},
}
"""What takes the place of a profile's models when the mini ones that ship are asked for; at 128 pixels LEVIR-CC's half
metre becomes the metre per pixel that they were trained at."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic": {
        "engine": {"engine": "local"},
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
    "published": {**_PUBLISHED, "train": _TRAIN_LARGE},
    # There is no test split at hand, so the validation split is described, and the checkpoint is chosen on training
    # pairs that are held out (docs/architecture.md).
    "tags": {
        "train": _TRAIN_TAGS,
        # The lower threshold weighs S*m of all pairs against CIDEr-D of the changed ones; see docs/results.md.
        "caption": {**_BY_MASS, "split": "val", "beams": 10, "change_threshold": 0.4},
    },
    "mini": MINI,
}
"""Models and training schedules that the profiles of data sets start from; see `pipeline.datasets.adapters.base`."""


def profiles() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the profiles of all registered data sets: by name, section and key, what differs from the defaults."""
    return {name: _merged(RECIPES[profile.recipe], profile.settings) for name, profile in dataset_profiles().items()}


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those of `changes`, section by section."""
    merged = dict(values)
    for key, change in changes.items():
        value = merged.get(key)
        if isinstance(value, Mapping) and isinstance(change, Mapping):
            merged[key] = _merged(value, change)
        else:
            merged[key] = change
    return merged


def profile_sections(
    profile: str, root: str | None, assignments: Iterable[str] = (), *, mini: bool = False
) -> dict[str, Section]:
    """Return every section of a profile.

    Args:
        profile: A key of `profiles`.
        root: The data set's folder, with `~` and variables as a shell would expand them; the synthetic profile needs
            none.
        mini: Use the mini models that ship instead of published checkpoints.
        assignments: Further `section.key=value` changes.

    Raises:
        SettingsError: The profile is unknown, the root is missing, or an assignment is wrong.
    """
    registered = profiles()
    if profile not in registered:
        raise SettingsError(f"no profile is called {profile!r}", fix=f"one of: {', '.join(registered)}")
    document: Mapping[str, Any] = registered[profile]
    if root is not None:
        if profile == SYNTHETIC:
            raise SettingsError("the synthetic world is generated: it has no --root")
        document = {**document, "prepare": {**document["prepare"], "root": expanded(root)}}
    elif profile != SYNTHETIC:
        raise SettingsError(f"where is the data set {profile}?", fix=f"sagecc init {profile} --root FOLDER")
    if mini:
        document = {**document, **MINI}
    return parse_sections(with_overrides(document, assignments), where=f"profile {profile}")


def render_profile(profile: str, sections: Mapping[str, Section]) -> str:
    """Return the text of params.yaml: `SHOWN` and what differs from the defaults.

    The section of the mini models' trainings, which no stage of dvc.yaml reads, is left out where nothing differs.
    """
    heading = (
        f"Settings of profile `{profile}`, written by `sagecc init`: the models, then one section per stage. Here are "
        "the keys that are often changed and those that the profile sets; `sagecc settings [SECTION]` lists every key "
        "with its default and meaning, and any of them may be added. Change a value and run "
        f"`{next_command(sections)}`: what depends on it is built again."
    )
    pretrain = sections["pretrain"]
    changed = any(setting.changed for setting in own_settings("pretrain", pretrain, sections))
    written = {name: section for name, section in sections.items() if name != "pretrain" or changed}
    return render_sections(written, heading=heading, shown=SHOWN)


def root_advice(sections: Mapping[str, Section]) -> SageccError | None:
    """Return what is wrong with the data set's root, which `prepare` would refuse: it is not there, or empty."""
    prepare = sections["prepare"]
    if not isinstance(prepare, PrepareSettings) or prepare.dataset == SYNTHETIC:
        return None
    try:
        check_root(Path(prepare.root))
    except SageccError as error:
        return error
    return None


def missing_files(sections: Mapping[str, Section]) -> list[tuple[Path, str]]:
    """List the files of models without which `dvc repro` would stop, each with how to get it.

    Empty where `next_command` is another: those stages read no model.
    """
    if next_command(sections) != "dvc repro":
        return []
    files: dict[Path, str] = {}
    for setting in _MODEL_FILES:
        section, *keys = setting.split(".")
        value: Any = sections[section]
        for key in keys:
            value = getattr(value, key)
        if value is not None:
            files.setdefault(Path(value) / "vocab.txt" if keys[-1] == "text_encoder" else Path(value), setting)
    return [(path, _advice(path, setting, sections)) for path, setting in files.items() if not shipped(path).is_file()]


def _advice(path: Path, setting: str, sections: Mapping[str, Section]) -> str:
    """Say how to get the missing file that a setting names."""
    advice = missing_advice(path)
    if advice is not None:
        return advice
    matches, pretrain = sections["matches"], sections["pretrain"]
    if (
        setting != "matches.weights"
        or not isinstance(matches, MatchesSettings)
        or not isinstance(pretrain, PretrainSettings)
    ):
        return f"put it there, or set {setting}"
    if matches.method == "nearest":
        shipped = MatchesSettings().weights
        return f"nearest does not read it, but DVC wants a file to be there: set {setting} to {shipped}"
    return f"after `dvc repro masks`, {training_hint(matches, pretrain.matcher)}; or put a matcher of them there"


def next_command(sections: Mapping[str, Section]) -> str:
    """Return what runs the stages that these settings can run: all of dvc.yaml, unless there are no images."""
    prepare = sections["prepare"]
    if isinstance(prepare, PrepareSettings) and prepare.images == "none":
        return " && ".join(f"sagecc {stage}" for stage in WITHOUT_IMAGES)
    return "dvc repro"
