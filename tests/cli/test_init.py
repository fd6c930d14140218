from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.options import Settings
from pipeline.checkpoints import CHECKPOINTS
from pipeline.errors import SettingsError
from pipeline.vision.matching.settings import MatcherLayout
from stages.settings import MatchesSettings, PretrainSettings, RegionsSettings

MATCHER = Path("artifacts/checkpoints/matcher.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "dvc.yaml")
    return tmp_path


def init(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["init", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def missing(lines: list[str]) -> dict[str, str]:
    """Return the files that `init` misses, and its advice."""
    before = "before `dvc repro`: "
    return {
        line.removeprefix(before).removesuffix(" is not there"): advice.strip()
        for line, advice in pairwise(lines)
        if line.startswith(before)
    }


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_every_model_of_the_profile_is_named_with_the_way_to_it() -> None:
    lines = init("levir-cc", "--root", "data")
    files = missing(lines)
    names = ("resnet101", "sam-vit_h", "grounding-dino-swin_t", "bert-base-uncased")
    # SAM's file, which two stages read, once; the matcher last, since it wants SAM's masks.
    assert list(files) == [*(str(CHECKPOINTS[name].path) for name in names), str(MATCHER)]
    for name, advice in zip(names, files.values(), strict=False):
        assert advice.startswith(f"run `sagecc checkpoints fetch {name}` (")
    assert files[str(MATCHER)].startswith("after `dvc repro masks`, train ")
    assert lines[-1] == "next: dvc repro"


def test_the_file_is_told_whole_and_stages_one_by_one_without_dvc_yaml(folder: Path) -> None:
    (folder / "dvc.yaml").unlink()
    lines = init("synthetic")
    assert lines[0] == f"wrote {folder / 'params.yaml'} from profile synthetic"
    assert lines[1:] == [lines[-1]]  # the models that ship are not missing, though they are in another folder
    assert lines[-1].startswith("next: sagecc prepare, then the other stages")


def test_what_is_there_is_not_named() -> None:
    files = missing(init("levir-cc", "--root", "data"))
    for path in files:
        put(Path(path))
    assert missing(init("levir-cc", "--root", "data")) == {}
    Path(CHECKPOINTS["sam-vit_h"].path).unlink()
    assert list(missing(init("levir-cc", "--root", "data"))) == [str(CHECKPOINTS["sam-vit_h"].path)]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["matches.method=lightglue", "matches.lightglue.width=128"],
        ["matches.superglue.keypoint_encoder=[32, 64, 128]", "matches.superglue.box_features=false"],
        ["models.head.kind=conv", "models.head.weights=a b.safetensors", "models.roi.mask_pooling=true"],
        ["pretrain.matcher.superglue.layers=9", "pretrain.matcher.method=lightglue"],
    ],
)
def test_the_advised_training_makes_the_matcher_that_the_profile_reads(changes: list[str]) -> None:
    files = missing(init("levir-cc", "--root", "data", *(word for change in changes for word in ("--set", change))))
    command = shlex.split(files[str(MATCHER)].split("`")[3])
    assert command[:3] == ["sagecc", "pretrain", "matcher"]
    options = list(pairwise(command))
    settings = Settings(Path("params.yaml"), [value for name, value in options if name == "--set"])
    matcher = settings.section("pretrain", PretrainSettings).matcher
    matches, regions = settings.section("matches", MatchesSettings), settings.section("regions", RegionsSettings)
    assert matcher.method == matches.method
    layout = set(MatcherLayout.model_fields) & {matches.method}
    assert matcher.model_dump(include=layout) == matches.model_dump(include=layout)
    assert (matcher.regions.roi, matcher.regions.head) == (regions.roi, regions.head)
    assert ("--out", matches.weights) in options
    assert "--prepared" in command


def test_nearest_neighbours_need_any_file() -> None:
    files = missing(init("levir-cc", "--root", "data", "--set", "matches.method=nearest"))
    assert "sagecc pretrain" not in files[str(MATCHER)]
    assert f"set matches.weights to {MatchesSettings().weights}" in files[str(MATCHER)]


def test_a_model_of_ones_own_is_put_there() -> None:
    files = missing(init("levir-cc", "--root", "data", "--set", "models.backbone.weights=own.pth"))
    assert files["own.pth"] == "put it there, or set models.backbone.weights"


def test_stages_that_read_no_model_miss_none() -> None:
    lines = init("levir-cc-tags", "--root", "data")
    assert missing(lines) == {}
    assert lines[-1].startswith("next: sagecc prepare && ")


def test_a_root_that_is_not_there_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    lines = init("folder", "--root=~/own")
    assert lines[1] == "before `dvc repro` mend prepare.root: the data set's root is not a folder: it is not there"
    assert lines[2] == f"  where: {folder}/own"
    assert lines[-1] == "next: dvc repro"
    # Written as DVC and every stage read it.
    assert f"  root: {folder}/own" in Path("params.yaml").read_text().splitlines()


@pytest.mark.parametrize("root", ["~/own", "$HOME/own", "${HOME}/own"])
def test_a_root_of_the_shell_is_expanded_and_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    put(folder / "own" / "A" / "a.png")
    assert not any("prepare.root" in line for line in init("folder", f"--root={root}"))
    assert Settings(Path("params.yaml"), []).prepare.root == f"{folder}/own"


def test_other_paths_of_the_shell_are_refused(folder: Path) -> None:
    for change in ("models.sam.weights=~/sam.pth", "semantics.source.root=$NOWHERE"):
        result = CliRunner().invoke(app, ["init", "folder", "--root", "own", "--set", change])
        assert isinstance(result.exception, SettingsError)
        assert "settings are taken as they stand" in result.exception.what
    assert not (folder / "params.yaml").exists()


def test_a_tilde_that_no_shell_expands_in_an_option(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    init("synthetic", "--out=~/params.yaml")
    assert (folder / "home" / "params.yaml").is_file()
    assert not (folder / "~").exists()
