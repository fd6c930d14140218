"""Killing a stage at random moments: finished afterwards, it must have written the bytes of an unbroken run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

from pipeline.config import Section
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from tests.execution.killing import run_and_kill
from tests.places import at

ROOT = Path(__file__).parents[2]

# Says when the first shard is there, and leaves behind how long all went on from then.
_PROGRAM = """
import threading, time
from importlib import import_module
from pathlib import Path
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths

begun = []

def watch():
    while not any(Path(".work/{stage}").glob("*/*.safetensors")):
        time.sleep(0.005)
    begun.append(time.monotonic())
    print("begun", flush=True)

if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    stage = import_module("stages.{stage}")
    settings = stage.{kind}.model_validate_json(Path("settings.json").read_text())
    engine = EngineSettings(engine={engine!r}, workers=2, device="cpu")
    places = {{name: Path(path) for name, path in {places!r}.items()}}
    stage.run(settings, Paths.under().at(**places), engine=engine)
    Path("seconds").write_text(str(time.monotonic() - begun[0]))
"""
_PATIENCE = 600.0


def check_kills(
    folder: Path, stage: str, settings: Section, inputs: Mapping[str, Path], *, engine: str, moments: int
) -> None:
    """Kill a stage `moments` times while it runs, finish it each time, and compare with an unbroken run.

    Runs in the working directory `folder`, which the caller must have made its own. One kill in three comes at any
    moment, the others after the first shard is written: starting can take far longer than the work. The work must fall
    into several shards.

    Args:
        folder: An empty folder but for the inputs.
        stage: Name of the module under `stages`.
        settings: The stage's.
        inputs: Files and folders that it reads, by their names in `Paths`.
        engine: Which engine is killed, inline or local; inline finishes what it began.
        moments: How many kills.
    """
    run = import_module(f"stages.{stage}").run
    output = folder / "caches" / f"{stage}.h5"
    (folder / "settings.json").write_text(settings.model_dump_json())
    program = _PROGRAM.format(
        stage=stage,
        kind=type(settings).__name__,
        engine=engine,
        places={name: str(path) for name, path in {**inputs, stage: output}.items()},
    )
    (folder / "program.py").write_text(program)
    inline = EngineSettings(device="cpu")
    expected = sha256_file(run(settings, at(**inputs, **{stage: folder / "whole.h5"}), engine=inline))

    def reset() -> None:
        shutil.rmtree(folder / ".work", ignore_errors=True)
        shutil.rmtree(output.parent, ignore_errors=True)

    def shards() -> int:
        return len(list((folder / ".work").glob(f"{stage}/*/*.safetensors")))

    def killed(seconds: float, *, ready: str | None = None) -> bool:
        reset()
        return run_and_kill(
            [sys.executable, "program.py"], seconds, ready=ready, cwd=folder, env={"PYTHONPATH": str(ROOT)}
        )

    assert not killed(_PATIENCE)
    assert sha256_file(output) == expected
    all_shards, working = shards(), float((folder / "seconds").read_text())
    random = np.random.default_rng(0)
    partly_done: list[int] = []
    for attempt in range(4 * moments):
        if len(partly_done) == moments:
            break
        moment = float(random.uniform(0.0, 1.0)) * working
        if killed(moment, ready=None if attempt % 3 == 2 else "begun"):
            partly_done.append(shards())
        else:
            # It was over before: the machine is quicker now than when the whole run was timed.
            working = moment
        run(settings, at(**inputs, **{stage: output}), engine=inline)
        assert sha256_file(output) == expected, f"killed after {moment:.2f} s"
        assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert len(partly_done) == moments
    # Some kills fell between two shards: otherwise nothing was resumed.
    assert any(0 < count < all_shards for count in partly_done), partly_done
