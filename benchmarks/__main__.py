"""`python -m benchmarks NAME [--quick] [--json FILE]`: run one benchmark, print its table, write its figures."""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from pipeline.errors import SageccError
from pipeline.files import write_json

_OWN = {"__init__", "__main__", "harness"}


def available() -> dict[str, str]:
    """Return each benchmark's name and the first line of its docstring, without importing any."""
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem not in _OWN and path.stem[0] != "_")
    return {name: _summary(folder / f"{name}.py") for name in names}


def measure(name: str, *, quick: bool) -> tuple[dict[str, Any], Mapping[str, float]]:
    """Run benchmark `name`.

    Returns:
        The result as it is written to JSON (`name`, `hardware`, `versions`, `figures`), and the benchmark's bars.

    Raises:
        ValueError: A figure is not a finite number.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    figures = {key: float(value) for key, value in module.run(quick=quick).items()}
    for key, value in figures.items():
        if not math.isfinite(value):
            raise ValueError(f"benchmark {name}: figure {key} is {value}")
    result = {"name": name, "hardware": harness.hardware(), "versions": harness.versions(), "figures": figures}
    return result, getattr(module, "BARS", {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print. Returns the exit code: 0, or 2 for a mistake of the user."""
    benchmarks = available()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="benchmarks:\n" + "\n".join(f"  {name:<16} {summary}" for name, summary in benchmarks.items()),
    )
    parser.add_argument("name", nargs="?", help="the benchmark to run; without one they are listed")
    parser.add_argument("--quick", action="store_true", help="the same ratios on less work: within 45 s on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options, rest = parser.parse_known_args(arguments)
    if options.name is None:
        parser.print_help()
        return 0
    if options.name not in benchmarks:
        near = difflib.get_close_matches(options.name, benchmarks, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(benchmarks)}"
        print(f"no benchmark is called `{options.name}`\n  fix:   {hint}", file=sys.stderr)
        return 2
    # A benchmark that has `main` prints tables of its own and knows more options; its figures are those of --json.
    own = getattr(importlib.import_module(f"benchmarks.{options.name}"), "main", None)
    if own is not None and options.json is None:
        return int(own([*(["--quick"] if options.quick else []), *rest]))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        result, bars = measure(options.name, quick=options.quick)
        if options.json is not None:
            write_json(options.json, result)
    except SageccError as error:
        print(error, file=sys.stderr)
        return 2
    _print(result, bars, benchmarks[options.name])
    return 0


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _print(result: Mapping[str, Any], bars: Mapping[str, float], summary: str) -> None:
    from rich.console import Console
    from rich.table import Table

    hardware = result["hardware"]
    machine = (
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {hardware['gpu'] or 'no GPU'}"
    )
    failed = harness.missed(result["figures"], bars)
    table = Table(title=f"{result['name']}: {summary}", caption=machine, title_justify="left", caption_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("bar", justify="right")
    for name, value in result["figures"].items():
        table.add_row(name, _number(value), _bar(name, bars, missed=name in failed))
    Console(soft_wrap=True).print(table)


def _bar(name: str, bars: Mapping[str, float], *, missed: bool) -> str:
    if name not in bars:
        return ""
    sign = "≤" if name.endswith("_share") else "≥"
    return f"{sign} {bars[name]:g} {'missed' if missed else 'met'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
