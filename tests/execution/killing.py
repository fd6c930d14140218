"""Running a command, killing it with all its children at some moment, and running it to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

_PATIENCE = 120.0


def run_to_end(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> float:
    """Run `command`, which must succeed; return the seconds it took."""
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=cwd, env=_environment(env), capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def run_and_kill(
    command: Sequence[str],
    seconds: float,
    *,
    ready: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> bool:
    """Start `command` in a process group of its own and kill -9 the whole group after `seconds`.

    With `ready`, the clock starts when the command prints a line with that text on standard output.
    Returns whether it was still running then.
    """
    with _group(command, cwd, env) as process:
        if ready is not None and process.stdout is not None:
            while ready.encode() not in (line := process.stdout.readline()):
                if not line:
                    raise AssertionError(f"{command} ended before it said {ready!r}")
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        return False


def survive_kills(
    command: Sequence[str],
    reset: Callable[[], None],
    check: Callable[[float], None],
    *,
    window: tuple[float, float],
    moments: int = 20,
    seed: int = 0,
    finish: Callable[[], object] | None = None,
    ready: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Kill `command` at random moments; each time finish it and check what it wrote.

    Args:
        command: What is killed.
        reset: Called before each moment: removes what earlier ones left.
        check: Called with the moment after it was finished: compares the output.
        window: First and last moment, in seconds after the start (or after `ready`).
        moments: How many; spread evenly over the window, with a random shift each.
        seed: Of the shifts.
        finish: Finishes the work; by default `command` is run again to its end.
        ready: See `run_and_kill`.
        cwd: See `run_and_kill`.
        env: Added to the environment.

    Returns:
        How many times the command was still running when it was killed; a caller asserts that these are most.
    """
    random = np.random.default_rng(seed)
    killed = 0
    first, last = window
    for shift in (np.arange(moments) + random.random(moments)) / moments:
        moment = float(first + (last - first) * shift)
        reset()
        killed += run_and_kill(command, moment, ready=ready, cwd=cwd, env=env)
        if finish is None:
            run_to_end(command, cwd=cwd, env=env)
        else:
            finish()
        check(moment)
    return killed


@contextmanager
def _group(
    command: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=_environment(env),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(env or {})}
