"""What a new data set costs: an adapter, here `TOY`, and one registration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from pipeline.config import parse_section
from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.adapters.base import DatasetAdapter, Profile, dataset_profiles, find_captions, profile_table
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.listing import Listing, find_images, join
from pipeline.datasets.records import read_prepared
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.training.inference import no_change_tokens
from stages import prepare
from stages.profiles import RECIPES, profile_sections, profiles
from stages.settings import PrepareSettings
from tests.datasets import fakes
from tests.places import at

PROJECT = Path(__file__).parents[3]


def list_toy_pairs(settings: DatasetSettings, audit: Audit) -> Listing:
    captions = find_captions(settings, TOY.caption_files)
    entries = read_captions(captions)
    return join(entries, find_images(entries, "old", "new", ".png", settings, audit), audit, captions)


TOY = DatasetAdapter(
    profile=Profile(
        name="toy",
        title="a data set of this test",
        layout="`old`, `new`, `toy.json`",
        settings={"prepare": {"vocabulary": {"min_count": 1}}},
    ),
    list_pairs=list_toy_pairs,
    caption_files=("toy.json",),
    no_change=("nothing to see here",),
)


@pytest.fixture
def toy() -> Iterator[None]:
    ADAPTERS.register("toy", f"{__name__}:TOY")
    yield
    ADAPTERS.unregister("toy")


@pytest.fixture
def toy_root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    images = []
    for number, (split, text) in enumerate(
        (("train", "a house is built"), ("train", "Nothing to see here."), ("test", "a road is built"))
    ):
        for date in ("old", "new"):
            fakes.save(root / date / f"{number}.png", fakes.picture(rng))
        images.append({"filename": f"{number}.png", "split": split, "sentences": [{"raw": text}]})
    fakes.write(root / "toy.json", {"images": images})
    return root


def test_the_data_sets_are_registered_under_the_names_of_their_profiles() -> None:
    assert ADAPTERS.names == ("synthetic", "levir-cc", "levir-mci", "dubai-cc", "whu-cdc", "second-cc", "folder")
    for name in ADAPTERS.names:
        assert ADAPTERS.resolve(name).profile.name == name
    assert {profile.recipe for profile in dataset_profiles().values()} == set(RECIPES)


@pytest.mark.usefixtures("toy")
def test_a_registered_data_set_has_a_profile_and_stands_in_the_help() -> None:
    assert profiles()["toy"]["prepare"] == {"dataset": "toy", "vocabulary": {"min_count": 1}}
    section = profile_sections("toy", "some/folder")["prepare"]
    assert isinstance(section, PrepareSettings)
    assert (section.dataset, section.root) == ("toy", "some/folder")
    text = CliRunner().invoke(app, ["init", "--help"], env={"COLUMNS": "120"}).output
    for name in dataset_profiles():
        assert any(line.split()[:1] == [name] for line in text.splitlines()), name
    assert "| `toy` | a data set of this test |" in profile_table()


@pytest.mark.usefixtures("toy")
def test_a_registered_data_set_is_prepared_and_its_no_change_sentences_are_known(toy_root: Path) -> None:
    settings = profile_sections("toy", str(toy_root))["prepare"]
    assert isinstance(settings, PrepareSettings)
    output = prepare.run(settings, at(prepared=toy_root.parent / "out"), engine=EngineSettings(workers=1))
    prepared = read_prepared(output)
    assert prepared.card.name == "toy"
    assert [(pair.before, pair.after) for pair in prepared.pairs] == [
        (f"old/{i}.png", f"new/{i}.png") for i in range(3)
    ]
    vocabulary = Vocabulary.load(prepared.vocabulary_path)
    assert no_change_tokens("toy", vocabulary, prepared.card.no_change) == [vocabulary.encode("nothing to see here")]


def test_an_unregistered_data_set_is_refused_with_the_names_of_the_others() -> None:
    with pytest.raises(SettingsError, match=r"unknown data set.* synthetic, levir-cc, .*given: 'toy'"):
        parse_section({"dataset": "toy", "root": "x"}, "prepare", PrepareSettings)


@pytest.mark.usefixtures("toy")
def test_a_name_is_registered_once() -> None:
    with pytest.raises(SettingsError, match="two definitions of the data set 'toy'"):
        ADAPTERS.register("toy", "elsewhere:TOY")


def test_profiles_of_two_data_sets_have_different_names() -> None:
    ADAPTERS.register("again", f"{__name__}:TOY")
    ADAPTERS.register("toy", f"{__name__}:TOY")
    try:
        with pytest.raises(SettingsError, match="two data sets have a profile called 'toy'"):
            dataset_profiles()
    finally:
        ADAPTERS.unregister("again")
        ADAPTERS.unregister("toy")


def test_the_table_of_the_readme_is_that_of_the_registry() -> None:
    assert profile_table() in (PROJECT / "README.md").read_text(encoding="utf-8"), (
        "write the result of pipeline.datasets.adapters.base.profile_table into README.md"
    )


def test_names_are_known_without_numpy_and_adapters_without_torch() -> None:
    code = (
        "import sys; import pipeline.datasets.settings; assert 'numpy' not in sys.modules; "
        "from pipeline.datasets.adapters.base import dataset_profiles; dataset_profiles(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
