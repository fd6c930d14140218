"""`--out` of the commands: standard output, pipes and devices, what is refused, and a reader that leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.main import app
from pipeline.errors import SageccError
from tests.stages.graph_data import make, prepare, run

ROOT = Path(__file__).parents[2]
CAPTIONS = ("a house is built on the grass", "houses are built along the road", "a road appears on the bareland")


def shell(folder: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which `sagecc` is the project's command."""
    function = f"sagecc() {{ '{sys.executable}' -c 'from cli.main import main; main()' \"$@\"; }}; "
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", function + line], cwd=folder, env=environment, capture_output=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    (folder / "captions.txt").write_text("\n".join(CAPTIONS) + "\n")
    run(make(), prepare(folder / "prepared", {"train": CAPTIONS, "val": CAPTIONS}), folder / "graph")
    return folder


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, SageccError):
        raise result.exception
    return result


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_holds_the_output_alone(folder: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    if name.startswith("/dev") and os.geteuid() == 0:
        pytest.skip("a fault would replace a device of this machine")
    result = call("graph", "extract", str(folder / "captions.txt"), "--engine", "rules", "--out", name)
    assert [json.loads(line)["head"] for line in capfd.readouterr().out.splitlines()] == ["house", "house", "road"]
    assert result.stdout == ""
    assert "3 triples from 3 of 3 captions" in result.stderr


@pytest.mark.parametrize(
    ("command", "begins"),
    [
        ("graph export --graph graph --format graphml --out -", "<?xml"),
        ("graph export --graph graph --format jsonld --out -", "{"),
        ("graph show --graph graph --out -", "<?xml"),
        ("init synthetic --out -", "# Settings of profile"),
    ],
)
def test_outputs_that_are_one_file_go_to_standard_output(
    folder: Path, command: str, begins: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    result = call(*command.split())
    assert result.exit_code == 0, result.output
    # Console of rich prints past the runner's streams.
    assert capfd.readouterr().out.startswith(begins)
    assert result.stdout == ""
    assert "wrote" in result.stderr


def test_a_redirected_file_is_written_where_it_stands(folder: Path) -> None:
    extract = "sagecc graph extract captions.txt --engine rules --out /proc/self/fd/1"
    shell(folder, f"(echo first; {extract}; echo last) > log")
    lines = (folder / "log").read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("first", "last", 5)


@pytest.mark.parametrize("command", ["graph extract captions.txt --engine rules --out -", "settings"])
def test_a_reader_that_leaves_ends_the_command_quietly(folder: Path, command: str) -> None:
    done = shell(folder, f"sagecc {command} | true")
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["settings", "graph extract captions.txt --engine rules --out -"])
def test_standard_output_on_a_full_disk(folder: Path, command: str) -> None:
    done = shell(folder, f"sagecc {command} > /dev/full")
    assert done.returncode == 2
    assert b"error: the disk is full" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("graph --out -", "a folder cannot be written to standard output"),
        ("prepare --out -", "a folder cannot be written to standard output"),
        ("scenes --out -", "read again from its file"),
        ("pretrain scenes --out -", "read again from its file"),
        ("graph extract captions.txt --out new/", "a folder, not a file"),
        ("graph extract captions.txt --out prepared", "a folder, not a file"),
        ("scenes --out prepared", "a folder, not a file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    folder: Path, command: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    listed = {path.name for path in folder.iterdir()}
    with pytest.raises(SageccError, match=said):
        call(*command.split())
    assert {path.name for path in folder.iterdir()} == listed
