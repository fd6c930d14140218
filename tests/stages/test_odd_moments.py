"""Commands with too little memory, on a full disk, stopped by signals, twice at once, and under clocks that jump."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import build_vocabulary
from tests.worlds import scene_data
from tests.worlds.mask_data import THRESHOLDS, lively_weights

ROOT: Final = Path(__file__).parents[2]
SAGECC: Final = (sys.executable, "-c", "from cli.main import main; main()")
LATER: Final = 10 * 365 * 86400.0
Content = dict[str, bytes]
TINY: Final = {"scene": {"width": 16, "blocks": 1, "heads": 2}, "decoder": {"width": 16, "layers": 1, "heads": 2}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project of 24 pairs of pictures, prepared, whose stages take a second or two."""
    prepared, backbone = scene_data.make_data(tmp_path, 24)
    build_vocabulary(["a road is built"], VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    (tmp_path / "artifacts").mkdir()
    prepared.rename(tmp_path / "artifacts" / "prepared")
    shared = {"backbone": {"weights": backbone.weights}, "sam": {"weights": lively_weights(tmp_path).weights}}
    sections = {
        "models": shared,
        "masks": {"generator": THRESHOLDS.model_dump(mode="json")},
        "train": {"epochs": 2, "batch_size": 4, "captioner": TINY},
        "caption": {"split": "train", "max_length": 8},
        "engine": {"device": "cpu"},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path


def start(folder: Path, *arguments: str, memory: int | None = None) -> subprocess.Popen[str]:
    def limited() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*SAGECC, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limited,
    )


def finish(process: subprocess.Popen[str], *codes: int) -> str:
    """Wait for a command; it must end with one of these codes and show no traceback."""
    said, _ = process.communicate(timeout=250)
    assert process.returncode in codes, said
    assert "Traceback" not in said, said
    return said


def run(folder: Path, *arguments: str) -> str:
    return finish(start(folder, *arguments), 0)


def content(folder: Path) -> Content:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pictures(folder: Path) -> tuple[str, str]:
    return str(folder / "images/A/pair_000.png"), str(folder / "images/B/pair_000.png")


def test_no_memory_for_the_libraries(folder: Path) -> None:
    for gigabytes in (0.3, 1.5):
        said = finish(start(folder, "masks", memory=int(gigabytes * 2**30)), 2)
        assert "error: memory ran out" in said
        assert "ulimit -v" in said
    assert not (folder / "artifacts" / "caches").exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_too_little_memory(folder: Path) -> None:
    run(folder, "scenes")
    run(folder, "train")
    before = content(folder / "artifacts")
    short = 0
    for number, command in enumerate(("masks", "train", "describe") * 4):
        memory = (2 << 30) + number * (256 << 20)
        out = ["--out", str(folder / f"out{number}")]
        arguments = {"masks": out, "train": out, "describe": list(pictures(folder))}[command]
        process = start(folder, command, *arguments, memory=memory)
        # The C library and C++ end the process themselves where a thread of a library finds no memory, by SIGSEGV
        # without a word.
        said = finish(process, 0, 2, 127, -signal.SIGABRT, -signal.SIGSEGV)
        if process.returncode != 0:
            short += process.returncode == 2
            assert process.returncode == -signal.SIGSEGV or "memory" in said or "bad_alloc" in said, said
            assert not (folder / f"out{number}").exists()
    assert short >= 3
    assert content(folder / "artifacts") == before


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["masks", "train"])
def test_signals_leave_no_trace_in_the_bytes(folder: Path, command: str) -> None:
    run(folder, "scenes")
    begun = time.monotonic()
    run(folder, command, "--out", str(folder / "whole"))
    seconds = time.monotonic() - begun
    whole = (folder / "whole").read_bytes() if command == "masks" else content(folder / "whole")
    moments = random.Random(7)
    stopped = 0
    for number in range(12):
        subprocess.run(["rm", "-rf", str(folder / ".work")], check=True)
        out = folder / f"out{number}"
        process = start(folder, command, "--out", str(out))
        time.sleep(moments.uniform(0, seconds))
        sent = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3]
        process.send_signal(sent)
        said, _ = process.communicate(timeout=250)
        stopped += process.returncode != 0
        assert process.returncode in (0, 130, 143, -sent), said
        run(folder, command, "--out", str(out))
        assert (out.read_bytes() if command == "masks" else content(out)) == whole, (number, sent)
        assert not list(folder.glob(".out*"))
    assert stopped >= 6


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", ["masks", "train"])
def test_two_runs_at_once(folder: Path, command: str) -> None:
    run(folder, "scenes")
    other = {"masks": "masks.generator.points_per_side=3", "train": "train.epochs=3"}[command]

    def read(name: str) -> object:
        path = folder / name
        return path.read_bytes() if path.is_file() else content(path)

    run(folder, command, "--out", "first")
    run(folder, command, "--set", other, "--out", "second")
    subprocess.run(["rm", "-rf", str(folder / ".work")], check=True)
    for settings in ([], ["--set", other]):
        out = f"both{len(settings)}"
        processes = [start(folder, command, "--out", out), start(folder, command, *settings, "--out", out)]
        for process in processes:
            said = finish(process, 0, 2)
            assert process.returncode == 0 or "another" in said, said
        assert any(process.returncode == 0 for process in processes)
        assert read(out) in (read("first"), read("second"))
        run(folder, command, "--out", out)
        assert read(out) == read("first")
    assert not list(folder.glob(".both*"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_times_of_files_mean_nothing(folder: Path) -> None:
    run(folder, "scenes")
    run(folder, "train")
    before = content(folder / "artifacts")
    for moment in (0.0, time.time() + LATER):
        for path in folder.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (moment, moment))
        run(folder, "scenes")
        assert "trained already" in run(folder, "train")
        assert content(folder / "artifacts") == before


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("jump", [-LATER, LATER])
def test_a_clock_that_jumps(folder: Path, jump: float) -> None:
    run(folder, "scenes")
    run(folder, "train")
    before = content(folder / "artifacts")
    program = (
        "import random, time\n"
        "true, start = time.time, time.time()\n"
        f"time.time = lambda: true() + random.choice((0, {jump}))\n"
        "from cli.main import main; main()"
    )
    subprocess.run(["rm", "-rf", str(folder / ".work"), str(folder / "artifacts" / "caches")], check=True)
    subprocess.run(["rm", "-rf", str(folder / "artifacts" / "models")], check=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in ("scenes", "train"):
        done = subprocess.run(
            [sys.executable, "-c", program, command], cwd=folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert content(folder / "artifacts") == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many kilobytes."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("this machine lets nobody mount a file system here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_full_disks(folder: Path, small_disk: Callable[[int], Path]) -> None:
    run(folder, "scenes")
    run(folder, "train")
    before = content(folder / "artifacts")
    for command in ("scenes", "train", "caption"):
        # As output, with an earlier file in the way; then as work folder.
        disk = small_disk(16)
        (disk / "earlier").write_bytes(bytes(8192))
        # Curves are drawn while a training runs, so they are another's here.
        again = ["--set", "train.epochs=3", "--curves", str(folder / "curves")] if command == "train" else []
        said = finish(start(folder, command, *again, "--out", str(disk / "out")), 0, 2)
        if command != "caption":
            assert "the disk is full" in said, said
            assert [path.name for path in disk.iterdir()] == ["earlier"]
    subprocess.run(["rm", "-rf", str(folder / ".work")], check=True)
    (folder / ".work").symlink_to(small_disk(16))
    changes = {"scenes": ["scenes.batch_size=2"], "train": ["train.epochs=4", "--curves", str(folder / "curves")]}
    for command, changed in changes.items():
        said = finish(start(folder, command, "--set", *changed, "--out", str(folder / "other")), 2)
        assert "the disk is full" in said, said
        assert not (folder / "other").exists()
    assert content(folder / "artifacts") == before
