"""What all benchmarks share: interleaved measurement, ratios with their spread, and the machine they were taken on.

A benchmark is a module of this package. The first line of its docstring says what it measures; `run(quick)` does the
work and returns its figures, a flat map of names to numbers; `BARS`, if it has one, maps a figure to the value it is to
reach: at least that for every figure, at most that for those named `…_share`. Ratios are named `vs_…`, more is better.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, float]
"""A benchmark's results: a flat map of names to numbers."""

_PACKAGES = ("torch", "torchvision", "numpy", "h5py", "dask", "distributed", "safetensors", "sagecc")


@dataclass(frozen=True)
class Ratio:
    """How many times faster side `a` is than side `b`.

    Attributes:
        value: Median over rounds of (rate of `a`) / (rate of `b`) of the same round.
        low: The smallest ratio of any round.
        high: The largest ratio of any round.
        a: Median rate of side `a`.
        b: Median rate of side `b`.
    """

    value: float
    low: float
    high: float
    a: float
    b: float

    def figures(self, name: str) -> Figures:
        """Return the three figures `name`, `name_low` and `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True)
class Rounds:
    """Rates of several sides, one value per round; all sides ran in every round."""

    rates: Mapping[str, tuple[float, ...]]

    def median(self, side: str) -> float:
        """Return the median rate of one side."""
        return statistics.median(self.rates[side])

    def ratio(self, a: str, b: str) -> Ratio:
        """Return how many times faster side `a` is than side `b`, round by round."""
        ratios = [first / second for first, second in zip(self.rates[a], self.rates[b], strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios), self.median(a), self.median(b))


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: bool = True) -> Rounds:
    """Run all sides once per round, in an order that turns about from round to round.

    Args:
        sides: Callables that do a fixed amount of work and return their **rate** (units of work per second, so more is
            better); `rate` makes one of a plain function. All run in this process, so that they share its state of
            caches, clock and load.
        rounds: How often each side is measured; an odd number makes the median one of them.
        warm_up: Whether each side runs once beforehand, unrecorded.
    """
    if rounds < 1:
        raise ValueError(f"at least one round is needed, not {rounds}")
    if warm_up:
        for side in sides.values():
            side()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            gc.collect()
            rates[name].append(sides[name]())
    return Rounds({name: tuple(values) for name, values in rates.items()})


def paired(a: Callable[[], float], b: Callable[[], float], rounds: int, *, warm_up: bool = True) -> Ratio:
    """Measure how many times faster `a` is than `b`: both **return a rate**, not seconds; see `interleaved`."""
    return interleaved({"a": a, "b": b}, rounds, warm_up=warm_up).ratio("a", "b")


def rate(work: Callable[[], object], units: float) -> Callable[[], float]:
    """Return a side that times one call of `work` and returns `units` per second of it.

    Work on a GPU must be waited for inside `work` (`torch.cuda.synchronize`).
    """

    def side() -> float:
        start = time.perf_counter()
        work()
        return units / (time.perf_counter() - start)

    return side


def hardware() -> dict[str, Any]:
    """Describe the machine by what matters to speed; no host name, no path.

    Returns:
        `cpu` (model), `cores` (usable by this process), `memory_gib`, `gpu` (its name, or None).
    """
    return {"cpu": _cpu_model(), "cores": _cores(), "memory_gib": _memory_gib(), "gpu": _gpu_name()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide speed, those that are installed."""
    versions_by_package = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions_by_package[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions_by_package


def missed(figures: Mapping[str, float], bars: Mapping[str, float]) -> list[str]:
    """Return the names of `bars` that `figures` do not reach, or do not hold."""
    return [name for name, bar in bars.items() if name not in figures or not _reaches(name, figures[name], bar)]


def _reaches(name: str, value: float, bar: float) -> bool:
    return value <= bar if name.endswith("_share") else value >= bar


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float:
    import psutil

    return round(psutil.virtual_memory().total / 2**30, 1)


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
