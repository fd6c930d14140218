"""Commands as processes in an environment that differs from a usual one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import environment

ROOT = Path(__file__).parents[2]
ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def sagecc(
    here: Path, *arguments: str, changes: dict[str, str | None] | None = None, shell: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run sagecc, with variables changed (None: removed), as `"$@"` of the shell's script where there is one."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(changes or {})}
    kept = {name: value for name, value in variables.items() if value is not None}
    command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
    if shell:
        command = ["sh", "-c", shell, "sh", *command]
    return subprocess.run(command, cwd=here, env=kept, capture_output=True, text=True, errors="replace", timeout=120)


@pytest.mark.parametrize(
    "changes",
    [
        {"HOME": None, "TERM": None, "TZ": "garbage", "PATH": "/bin", "LANG": None},
        {"HOME": "relative", "COLUMNS": "0", "LINES": "0", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": "1"},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/proc", "COLUMNS": "x"},
        {"PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "1", "PYTHONHASHSEED": "5", "SOURCE_DATE_EPOCH": "soon"},
        {"RANK": "1", "WORLD_SIZE": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "CUDA_VISIBLE_DEVICES": "x"},
        {"DASK_CONFIG": "/nonexistent", "MPLBACKEND": "x", "OMP_NUM_THREADS": "abc", **ASCII},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_settings_are_listed_whatever_the_environment_says(tmp_path: Path, changes: dict[str, str | None]) -> None:
    (tmp_path / "params.yaml").write_text("{}\n")
    result = sagecc(tmp_path, "settings", "scenes", changes=changes)
    assert (result.returncode, result.stderr) == (0, "")
    assert "scenes.batch_size" in result.stdout


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "| head -c 1"])
def test_closed_streams_are_no_error(tmp_path: Path, shell: str) -> None:
    result = sagecc(tmp_path, "--help", shell=f'"$@" {shell}')
    assert (result.returncode, result.stderr) == (0, "")


def test_signs_that_the_encoding_lacks_are_written_out(tmp_path: Path) -> None:
    result = sagecc(ROOT, "settings", changes=dict(ASCII))
    assert result.returncode == 0, result.stderr
    assert "\\u" in result.stdout
    name = os.fsdecode(b"\xff.yaml")
    for changes in ({}, ASCII):
        result = sagecc(tmp_path, "settings", "--params", name, changes=dict(changes))
        assert result.returncode == 2
        assert result.stderr.startswith("error: cannot read the settings")


def test_deleted_working_directory_is_told(tmp_path: Path) -> None:
    project, gone = tmp_path / "project", tmp_path / "gone"
    for folder in (project, gone):
        folder.mkdir()
    (project / "params.yaml").write_text("{}\n")
    here = f'cd "{gone}" && rmdir "{gone}" && "$@"'
    result = sagecc(tmp_path, "settings", "scenes", shell=here)
    assert (result.returncode, result.stderr.splitlines()[0]) == (2, "error: the working directory no longer exists")
    gone.mkdir()
    result = sagecc(tmp_path, "settings", "scenes", "--project", str(project), shell=here)
    assert (result.returncode, result.stderr) == (0, f"project: {project}\n")


def test_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    result = sagecc(tmp_path, "settings", changes={"PYTHONOPTIMIZE": "2"})
    assert result.returncode == 2
    assert "unset PYTHONOPTIMIZE" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("COLUMNS", "80", True),
        ("COLUMNS", "0", False),
        ("COLUMNS", "", False),
        ("LINES", "-3", False),
        ("LINES", "٣", False),
        ("SOURCE_DATE_EPOCH", "0", True),
        ("SOURCE_DATE_EPOCH", "soon", False),
    ],
)
def test_numbers_that_are_none_are_dropped(monkeypatch: pytest.MonkeyPatch, name: str, value: str, kept: bool) -> None:
    monkeypatch.setenv(name, value)
    environment.prepare_environment()
    assert (name in os.environ) is kept


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_user_that_the_system_does_not_know_has_a_home(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(environment.pwd, "getpwuid", unknown)
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    environment.prepare_environment()
    assert Path.home() == Path("/")
