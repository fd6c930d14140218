"""What an adapter says about its data set, and the profiles of all registered data sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.audit import Audit
from pipeline.datasets.links import check_link
from pipeline.datasets.listing import Listing
from pipeline.datasets.nearest import FolderNames
from pipeline.datasets.pair_lists import LIST_SUFFIXES
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import DatasetSettings
from pipeline.errors import DataError, SettingsError

ListPairs = Callable[[DatasetSettings, Audit], Listing]
"""Lists the pairs whose images exist, without reading any image. Raises DataError where the layout is not that of the
data set, or a caption file is invalid."""

ReadMasks = Callable[[Path, Pair, float], dict[str, NDArray[np.uint8]]]
"""Reads a pair's masks, given the root, the pair and the largest size in megapixels: field of `Pair` → class indices
(H, W), 0 where nothing changes. Raises DataError where a mask cannot be read or has values without a meaning."""


def no_masks(root: Path, pair: Pair, max_megapixels: float) -> dict[str, NDArray[np.uint8]]:
    """Return no masks: the `ReadMasks` of a data set without any."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A starting point for params.yaml.

    Attributes:
        name: Argument of `sagecc init`.
        title: The data set in a few words.
        layout: What its folder holds; files and folders between backticks.
        recipe: Models and training schedule, a key of `stages.profiles.RECIPES`.
        settings: Values by section and key that differ from the recipe and from the defaults.
    """

    name: str
    title: str
    layout: str
    recipe: str = "mini"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetAdapter:
    """A data set: how it is read, and how to start with it.

    Attributes:
        profile: Its profile, which bears its name.
        list_pairs: Lists its pairs; None where images are generated instead of read.
        read_masks: Reads the masks of a pair.
        variants: Further profiles of the same data set.
        caption_files: Known names of its caption file.
        no_change: English sentences that its annotators give to unchanged pairs, most frequent first; empty where they
            are unknown. `prepare.no_change_sentences` changes them, and adds those of other languages.
        without_images: Whether its captions name all pairs and their splits, so that it can be prepared without images.
    """

    profile: Profile
    list_pairs: ListPairs | None
    read_masks: ReadMasks = no_masks
    variants: tuple[Profile, ...] = ()
    caption_files: tuple[str, ...] = ()
    no_change: tuple[str, ...] = ()
    without_images: bool = False


def find_captions(settings: DatasetSettings, names: Sequence[str]) -> Path:
    """Return a data set's caption file: the one that the settings name, else the first of its known names that exists.

    Raises:
        DataError: None of them exists; the message names what is near, or the files that it could be.
    """
    root = Path(settings.root)
    candidates = [settings.captions] if settings.captions else list(names)
    for name in candidates:
        if (root / name).is_symlink():
            check_link(root / name, root, settings.links)
        if (root / name).is_file():
            return root / name
    # Lists of pairs are read of own pairs alone, which have no usual names.
    suffixes = {".json"} if names else {".json", *LIST_SUFFIXES}
    raise DataError(
        f"the caption file {' or '.join(candidates)} is not there",
        where=root,
        fix=_captions_advice(root, candidates, suffixes),
    )


def _captions_advice(root: Path, candidates: Sequence[str], suffixes: Collection[str]) -> str:
    folders = FolderNames(root)
    for name in candidates:
        if Path(name).is_file():
            return f"set prepare.captions to {Path(name).absolute()}: it is relative to prepare.root"
        if holder := folder_with(root, name):
            return f"set prepare.root to {holder}, where it is"
        if near := folders.guess(name):
            return f"set prepare.captions to it, if it is meant: {near}"
    others = sorted(path.name for path in root.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    return f"set prepare.captions to one of: {', '.join(others)}" if others else "set prepare.root or prepare.captions"


def folder_with(root: Path, name: str) -> Path | None:
    """Return the folder directly within the root, or the one above it, that has a file of that name."""
    return next((path for path in (*sorted(root.iterdir()), root.absolute().parent) if (path / name).is_file()), None)


def dataset_profiles() -> dict[str, Profile]:
    """Return the profiles of all registered data sets by name, each with `prepare.dataset` set.

    Raises:
        SettingsError: Two profiles have the same name.
    """
    profiles: dict[str, Profile] = {}
    for name in ADAPTERS.names:
        adapter: DatasetAdapter = ADAPTERS.resolve(name)
        for profile in (adapter.profile, *adapter.variants):
            if profile.name in profiles:
                raise SettingsError(f"two data sets have a profile called {profile.name!r}", where=ADAPTERS[name])
            prepare = {"dataset": name, **profile.settings.get("prepare", {})}
            profiles[profile.name] = replace(profile, settings={**profile.settings, "prepare": prepare})
    return profiles


def profile_table() -> str:
    """Return the profiles as the Markdown table of README.md."""
    rows = [f"| `{profile.name}` | {profile.title} | {profile.layout} |" for profile in dataset_profiles().values()]
    return "\n".join(["| profile | data set | layout it expects |", "| --- | --- | --- |", *rows])
