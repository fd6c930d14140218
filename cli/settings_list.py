"""The listing of `sagecc settings`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipeline.config import Section, Setting, yaml_value
from pipeline.errors import SettingsError
from stages.settings import INDEPENDENT, SHARED, own_settings, renamed_keys


def print_settings(sections: Mapping[str, Section], name: str | None, console: Console) -> None:
    """Print every key of all sections, or of one.

    On a terminal the meaning of a key is below it; piped, a key is one line, for grep.

    Args:
        sections: All sections.
        name: A section, a section within one, or a key; None: all.
        console: Where to print.

    Raises:
        SettingsError: There is no such section or key; the nearest is named.
    """
    listed = _settings_under(sections, name)
    previous = None
    for setting in listed:
        section = setting.key.partition(".")[0]
        if section != previous:
            _print_heading(section, sections[section], name, console)
            previous = section
        _print_setting(setting, console)


def _settings_under(sections: Mapping[str, Section], name: str | None) -> list[Setting]:
    settings = [setting for section, values in sections.items() for setting in own_settings(section, values, sections)]
    if name is None:
        return settings
    listed = [setting for setting in settings if f"{setting.key}.".startswith(f"{name}.")]
    if listed:
        return listed
    if name in renamed_keys():
        raise SettingsError(f"`{name}` is `{renamed_keys()[name]}` now", fix=f"sagecc settings {renamed_keys()[name]}")
    names = sorted({parent for setting in settings for parent in _parents(setting.key)})
    # `trian` is like `train`, `generator` like `masks.generator`.
    same_end = [key for key in names if key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = same_end[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise SettingsError(
        f"no section or key is called `{name}`",
        fix=f"did you mean `{close[0]}`?" if close else f"one of: {', '.join(sections)}",
    )


def _parents(key: str) -> Iterator[str]:
    """Yield the key, and the sections that it is in."""
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


def _print_heading(name: str, section: Section, chosen: str | None, console: Console) -> None:
    about = " ".join((section.__doc__ or "").partition("\n\n")[0].split())
    lines = [f"# {name}: {about}"]
    for source, target in SHARED:
        if target.partition(".")[0] == name and (chosen is None or f"{target}.".startswith(f"{chosen}.")):
            unless = ", unless it is set here" if target in INDEPENDENT else ""
            lines.append(f"# {target}: set by {source}{unless}")
    if console.is_terminal:
        console.print()
    for line in lines:
        console.print(Text(line, style="bold" if line is lines[0] else "dim"), soft_wrap=not console.is_terminal)


def _print_setting(setting: Setting, console: Console) -> None:
    line = Text("* " if setting.changed else "  ", style="yellow")
    line.append(setting.key, style="cyan")
    line.append(f": {yaml_value(setting.value)}", style="bold yellow" if setting.changed else "")
    if setting.changed:
        line.append(f"  (default: {yaml_value(setting.default)})", style="dim")
    if not console.is_terminal:
        console.print(line.append(f"  # {setting.description}"), soft_wrap=True)
        return
    console.print(line)
    console.print(Padding(Text(setting.description, style="dim"), (0, 0, 0, 6)))
