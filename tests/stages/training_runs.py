"""Trainings that are interrupted, killed, or not to happen, for the tests of the stages that train."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.training import run as training
from pipeline.training.loop import Loop
from pipeline.training.settings import TrainSettings
from stages import train

OUTPUT = Path("models/baseline")
"""Folder of the models, in the project folder of a test."""


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def forget() -> None:
    """Empty the work folder, so that nothing trained before is found."""
    shutil.rmtree(".work", ignore_errors=True)


def no_training(*arguments: object) -> None:
    pytest.fail("a model is trained again")


class Impatient(Loop):
    """Saves after every step, and presses Ctrl-C after the fourth."""

    def run(self):
        self.save_every = 0.0
        done = 0

        def tick(steps: int) -> None:
            nonlocal done
            done += steps
            if done == 4 and steps == 1:
                os.kill(os.getpid(), signal.SIGINT)

        self.tick = tick
        return super().run()


def _train_and_leave(settings: TrainSettings, paths: Paths) -> None:
    training.Loop = functools.partial(Loop, save_every=0.0)
    train.run(settings, paths, engine=EngineSettings(device="cpu"))
    os._exit(0)


def kill_until_done(
    settings: TrainSettings, paths: Paths, whole: dict[str, bytes], *, most: int, longest: float
) -> int:
    """Train in processes of which all but the last are killed, at most `most` after at most `longest` seconds each.

    What is found afterwards must be `whole`, and nothing or that in between; a killed one must have left a state.
    Returns the number of kills.
    """
    moments = random.Random(1)
    kills, states = 0, 0
    while True:
        process = get_context("fork").Process(target=_train_and_leave, args=(settings, paths))
        process.start()
        process.join(moments.uniform(longest / 10, longest) if kills < most else 60)
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        states += any(Path(".work").rglob("state.safetensors"))
        assert not OUTPUT.exists() or content(OUTPUT) == whole
    assert states >= 1
    assert content(OUTPUT) == whole
    return kills
