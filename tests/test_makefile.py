"""The Makefile in a checkout whose path the shell and make would read as something else."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDER = '#!/bin/sh\nprintf "%s|%s|%s\\n" "$(basename "$0")" "$VIRTUAL_ENV" "$*" >> "{log}"\n'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.mark.parametrize("name", ["plain", "my project", "a $HOME (it's) #1 & `x` ; y"])
def test_set_up_and_run_work_in_any_folder(tmp_path: Path, name: str) -> None:
    checkout = tmp_path / name
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        (checkout / file).write_bytes((ROOT / file).read_bytes())
    log = tmp_path / "log"
    for program in ("python", "uv", "dvc"):
        (programs / program).write_text(RECORDER.format(log=log))
        (programs / program).chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": os.environ.get("LC_ALL", "C")}
    for target in ("setup", "repro", "test"):
        result = subprocess.run(["make", target], cwd=checkout, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    venv = str(checkout / ".venv")
    lines = [line.split("|") for line in log.read_text().splitlines()]
    assert [(line[0], line[1]) for line in lines] == [
        ("uv", venv), ("uv", venv), ("python", ""), ("dvc", ""), ("python", ""),
    ]  # fmt: skip
    assert "--compile-bytecode --require-hashes -r requirements.lock" in lines[0][2]
    assert lines[2][2].startswith("-m compileall")
    assert lines[3][2] == "repro"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["log", name])
