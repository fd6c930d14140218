from __future__ import annotations

import json
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from benchmarks import __main__ as command
from benchmarks import harness


def test_ratio_is_taken_round_by_round_and_reported_with_its_spread() -> None:
    fast, slow = iter([100.0, 10.0, 40.0, 60.0]), iter([100.0, 5.0, 10.0, 10.0])
    ratio = harness.paired(lambda: next(fast), lambda: next(slow), rounds=3)
    assert (ratio.value, ratio.low, ratio.high) == (4.0, 2.0, 6.0)
    assert (ratio.a, ratio.b) == (40.0, 10.0)
    assert ratio.figures("vs_x") == {"vs_x": 4.0, "vs_x_low": 2.0, "vs_x_high": 6.0}


def test_sides_alternate_within_one_run() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return 1.0

    harness.interleaved({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    with pytest.raises(ValueError, match="at least one round"):
        harness.interleaved({}, rounds=0)


def test_rate_counts_units_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    assert harness.rate(lambda: None, units=6)() == 3.0


def test_bars_are_lower_bounds_and_for_shares_upper_ones() -> None:
    figures = {"vs_a": 2.0, "wait_share": 0.5}
    assert harness.missed(figures, {"vs_a": 2.0, "wait_share": 0.5}) == []
    assert harness.missed(figures, {"vs_a": 2.1, "wait_share": 0.4, "vs_b": 1}) == ["vs_a", "wait_share", "vs_b"]


def test_hardware_names_no_host() -> None:
    import platform

    hardware = harness.hardware()
    assert set(hardware) == {"cpu", "cores", "memory_gib", "gpu"}
    assert hardware["cores"] >= 1
    assert hardware["memory_gib"] > 0
    assert platform.node() not in json.dumps(hardware)


def test_command_writes_json_and_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fake:
        BARS = MappingProxyType({"vs_slow": 2.0})

        @staticmethod
        def run(*, quick: bool) -> dict[str, float]:
            return {"vs_slow": 3.0 if quick else 1.0}

    monkeypatch.setattr(command, "available", lambda: {"fake": "compares"})
    monkeypatch.setitem(sys.modules, "benchmarks.fake", Fake)
    path = tmp_path / "figures.json"
    assert command.main(["fake", "--quick", "--json", str(path)]) == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    assert list(result) == ["name", "hardware", "versions", "figures"]
    assert result["figures"] == {"vs_slow": 3.0}
    assert "met" in capsys.readouterr().out


def test_unknown_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["cache_read"]) == 2
    assert "cache_reads" in capsys.readouterr().err


def test_figures_must_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        @staticmethod
        def run(*, quick: bool) -> dict[str, float]:
            return {"vs_slow": float("nan")}

    monkeypatch.setitem(sys.modules, "benchmarks.fake", Fake)
    with pytest.raises(ValueError, match="vs_slow"):
        command.measure("fake", quick=True)


def test_every_benchmark_says_what_it_measures() -> None:
    benchmarks = command.available()
    assert "harness" not in benchmarks
    assert all(benchmarks.values())
