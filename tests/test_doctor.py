from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from pipeline import doctor

PROJECT = Path(__file__).parent.parent


def findings(project: Path) -> dict[str, list[doctor.Finding]]:
    found: dict[str, list[doctor.Finding]] = {}
    for finding in doctor.examine(project):
        found.setdefault(finding.topic, []).append(finding)
    return found


def test_a_checkout_that_is_set_up_has_no_problem() -> None:
    found = findings(PROJECT)
    assert {"python", "packages", "devices", "java", "mini models", "checkpoint", "disk"} <= found.keys()
    assert [finding for group in found.values() for finding in group if finding.state == "problem"] == []


def test_what_is_missing_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr("pipeline.checkpoints._REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    found = findings(tmp_path)
    assert "torch" in found["packages"][-1].text
    assert found["packages"][-1].fix == "run `make setup`"
    assert found["mini models"][0].state == "problem"
    assert found["project"][0].text == f"no params.yaml in {tmp_path}"
    assert found["checkpoint"][0].fix == "sagecc checkpoints fetch resnet18"


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert findings(tmp_path)["disk"][0].state == "problem"
