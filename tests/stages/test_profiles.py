from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.checkpoints import FOLDER
from pipeline.config import read_document
from pipeline.paths import Paths
from pipeline.training.batches import CaptionTable, samples_of
from stages.profiles import SHOWN, missing_files, profile_sections, profiles, render_profile
from stages.settings import SECTIONS, SHARED, parse_sections

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", profiles())
def test_every_profile_renders_and_reads_back(profile: str, tmp_path: Path) -> None:
    sections = profile_sections(profile, None if profile == "synthetic" else "some/folder")
    (tmp_path / "params.yaml").write_text(render_profile(profile, sections), encoding="utf-8")
    document = read_document(tmp_path / "params.yaml")
    assert list(document) == [name for name in SECTIONS if name != "pretrain"]
    assert parse_sections(document) == sections


@pytest.mark.parametrize("profile", profiles())
def test_a_profile_is_short_and_names_what_is_often_changed(profile: str) -> None:
    text = render_profile(profile, profile_sections(profile, None if profile == "synthetic" else "some/folder"))
    assert len(text.splitlines()) < 190
    heading = " ".join(text.partition("\n\n")[0].replace("#", "").split())
    assert "sagecc settings [SECTION]" in heading
    document = yaml.safe_load(text)
    assert all(has_key(document, key) for key in SHOWN)


def has_key(document: Any, key: str) -> bool:
    """Tell whether a document has a dotted key."""
    for part in key.split("."):
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def test_trainings_of_mini_models_are_written_once_one_is_changed(tmp_path: Path) -> None:
    sections = profile_sections("synthetic", None, ["pretrain.sam.epochs=20"])
    (tmp_path / "params.yaml").write_text(render_profile("synthetic", sections), encoding="utf-8")
    assert read_document(tmp_path / "params.yaml")["pretrain"]["sam"]["epochs"] == 20


def test_mini_needs_no_published_checkpoint() -> None:
    for profile in profiles():
        sections = profile_sections(profile, None if profile == "synthetic" else "some/folder", mini=True)
        assert (PROJECT / sections["scenes"].weights).is_file()


@pytest.mark.parametrize(
    "profile", [name for name in profiles() if name not in ("synthetic", "levir-cc-tags", "folder")]
)
def test_published_profiles_take_as_many_steps_as_the_release(profile: str) -> None:
    train = profile_sections(profile, "some/folder")["train"]
    # LEVIR-CC's training split: 6,815 pairs of five captions. The rate falls as the paper's does.
    table = CaptionTable(np.zeros((34_075, 1), np.int32), np.ones(34_075, np.int64), np.arange(0, 34_076, 5))
    steps = -(-samples_of(table, train.captions_per_pair) // train.batch_size)
    assert (steps, train.epochs, train.learning_rate, train.decay_every) == (1_065, 50, 1e-4, 5)


def model_settings(dvc: str) -> set[str]:
    return {setting for setting in re.findall(r"\$\{([\w.]+)\}", dvc) if "weights" in setting or "encoder" in setting}


def test_every_model_that_dvc_depends_on_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = model_settings((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))
    assert len(keys) == 5
    for setting in keys:
        missing = missing_files(profile_sections("synthetic", None, [f"{setting}=nowhere/own.bin"]))
        assert any(path.is_relative_to("nowhere") for path, _ in missing), setting


@pytest.mark.parametrize("profile", profiles())
def test_a_profile_in_the_project_folder_lacks_published_models_only(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    root = None if profile == "synthetic" else "some/folder"
    for path, advice in missing_files(profile_sections(profile, root)):
        assert path.is_relative_to(FOLDER)
        assert "sagecc" in advice
    assert missing_files(profile_sections(profile, root, mini=True)) == []


def test_every_setting_is_described() -> None:
    def undescribed(kind: type, prefix: str) -> list[str]:
        keys = []
        for name, field in kind.model_fields.items():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                keys += undescribed(field.annotation, f"{prefix}.{name}")
            elif not field.description:
                keys.append(f"{prefix}.{name}")
        return keys

    assert [key for name, kind in SECTIONS.items() for key in undescribed(kind, name)] == []


def test_committed_settings_are_the_default_profile() -> None:
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    assert text == render_profile("synthetic", profile_sections("synthetic", None))


def test_dvc_stages_are_the_commands_and_sections_in_order() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    names = list(stages)
    assert names == [name for name in SECTIONS if name in names]
    for name, stage in stages.items():
        assert stage["cmd"] == f"sagecc {name}"
        assert name in stage["params"]
    outputs = [path for stage in stages.values() for key in ("outs", "metrics", "plots") for path in stage.get(key, [])]
    name = "${train.name}"
    paths = Paths.under(name=name)
    caches = [paths.scenes, paths.masks, paths.regions, paths.matches, paths.semantics]
    named = [paths.models, paths.curves, paths.captions]
    assert outputs == [str(path) for path in [paths.prepared, *caches, paths.graph, *named, paths.metrics, paths.plots]]


def test_dvc_code_dependencies_exist() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in stages.values():
        for dependency in stage["deps"]:
            if not dependency.startswith(("artifacts/", "${")):
                assert (PROJECT / dependency).exists(), dependency


@pytest.mark.parametrize("profile", profiles())
def test_dvc_finds_its_parameters_in_every_profile(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.dependency.param import ParamsDependency
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    sections = profile_sections(profile, None if profile == "synthetic" else "some/folder")
    Path("params.yaml").write_text(render_profile(profile, sections), encoding="utf-8")
    shutil.copy(PROJECT / "dvc.yaml", "dvc.yaml")
    with Repo.init(no_scm=True) as repo:
        stages = {stage.addressing: stage for stage in repo.index.stages}
        assert set(stages) == set(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
        for stage in stages.values():
            parameters = [dependency for dependency in stage.deps if isinstance(dependency, ParamsDependency)]
            assert parameters
            for dependency in parameters:
                assert dependency.get_hash()  # raises where a key is missing


def test_dvc_stages_depend_on_the_models_that_they_use() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        # SAM's images are those of masks.h5, and `caption` takes the trained captioner's settings.
        models = {source for source, target in SHARED if target.partition(".")[0] == name}
        assert {key for key in stage["params"] if key.startswith("models.")} == models
