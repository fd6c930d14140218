"""Every command that README and docs name can be parsed, and what they point to exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "artifacts" / "pretrained" / "README.md")
PROGRAMS = ("sagecc", "python -m benchmarks", "make", "dvc")


def _commands() -> Iterator[tuple[str, str]]:
    """Yield page and command for every line of code and every inline code that begins with one of `PROGRAMS`."""
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            codes = [line.strip()] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
            for code in codes:
                for command in re.split(r"&&|;", code.partition("  #")[0]):
                    if command.strip().split(" ")[0] in {program.split(" ")[0] for program in PROGRAMS}:
                        yield page.relative_to(ROOT).as_posix(), command.strip()


def _parse(words: list[str]) -> None:
    """Parse a command line as the program would, without running it."""
    command, parent, name = get_command(app), None, "sagecc"
    while True:
        try:
            parent = command.make_context(name, list(words), parent=parent)
        except Exception as error:
            # Typer carries its own copy of click, whose exceptions have no public name.
            if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):
                return  # the help was printed
            raise
        rest = [*getattr(parent, "_protected_args", ()), *parent.args]
        if not hasattr(command, "resolve_command") or not rest:
            return
        chosen, subcommand, words = command.resolve_command(parent, rest)
        assert subcommand is not None
        name, command = chosen or name, subcommand


COMMANDS = sorted(set(_commands()))


def test_there_are_commands_to_check() -> None:
    assert len([command for _, command in COMMANDS if command.startswith("sagecc ")]) > 30


@pytest.mark.parametrize(("page", "command"), [pair for pair in COMMANDS if pair[1].startswith("sagecc")])
def test_sagecc_commands_parse(page: str, command: str) -> None:
    try:
        _parse(shlex.split(command)[1:])
    except Exception as error:
        # A usage error of Typer's own copy of click, which has no public name; anything else is raised.
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "MissingParameter" and "-" not in command and len(command.split()) < 4:
            return  # the name of a command in running text
        pytest.fail(f"{page}: `{command}`: {error.format_message()}")


@pytest.mark.parametrize(("page", "command"), [pair for pair in COMMANDS if pair[1].startswith("python -m benchmarks")])
def test_benchmarks_exist(page: str, command: str) -> None:
    words = command.split()
    if len(words) > 3 and words[3].islower() and not words[3].startswith("-"):
        assert (ROOT / "benchmarks" / f"{words[3]}.py").is_file(), f"{page}: `{command}`"


@pytest.mark.parametrize(("page", "command"), [pair for pair in COMMANDS if pair[1].startswith("make ")])
def test_make_targets_exist(page: str, command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert command.split()[1] in targets, f"{page}: `{command}`"


def test_stages_exist() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for page, command in COMMANDS:
        if command.startswith("dvc repro "):
            assert command.split()[2] in stages, f"{page}: `{command}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    for path in re.findall(r"`((?:pipeline|stages|cli|tests|benchmarks|docs)/[\w/]+\.(?:py|md|json))`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
