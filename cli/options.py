"""Options that several commands share, and the reading of their settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pipeline.errors import SettingsError
from pipeline.paths import Paths
from pipeline.targets import STDOUT, is_stdout, require_file, resolve_target

if TYPE_CHECKING:
    from pipeline.config import Section, SectionT
    from pipeline.execution.settings import EngineSettings
    from pipeline.training.settings import TrainSettings
    from stages.settings import (
        CaptionSettings,
        EvaluateSettings,
        GraphSettings,
        MasksSettings,
        MatchesSettings,
        PrepareSettings,
        PretrainSettings,
        RegionsSettings,
        ScenesSettings,
        SemanticsSettings,
    )

Params = Annotated[Path, typer.Option("--params", help="The settings file.", show_default=True)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting for this run; may be repeated."),
]
PARAMS = Path("params.yaml")
Prepared = Annotated[Path, typer.Option("--prepared", help="Folder that `sagecc prepare` wrote.")]
Caches = Annotated[
    Path | None, typer.Option("--caches", metavar="DIR", help="Folder of all caches [default: artifacts/caches].")
]
CacheAt = Annotated[
    list[str] | None,
    typer.Option(
        "--cache",
        metavar="NAME=PATH",
        help="Where one cache is: scenes, masks, regions, matches, semantics or graph (a folder); may be repeated.",
    ),
]


def out_file(meaning: str) -> Any:
    """Return an option `--out` for a file that is only written, so that it may be a pipe, a device or `-`."""
    return typer.Option("--out", metavar="PATH", parser=_stream_or_file, help=f"{meaning}; - is standard output.")


def out_kept(meaning: str) -> Any:
    """Return an option `--out` for a file that later commands read, or that others lie beside."""
    return typer.Option("--out", metavar="PATH", parser=_regular_file, help=meaning)


def out_folder(meaning: str) -> Any:
    """Return an option `--out` for a folder."""
    return typer.Option("--out", metavar="PATH", parser=_folder, help=meaning)


def _stream_or_file(name: str) -> Path:
    if str(name).endswith("/"):
        raise SettingsError("this names a folder, not a file", where=f"--out {name}", fix="name a file in it")
    path = STDOUT if str(name) == "-" else Path(name)
    resolve_target(path)
    return path


def _regular_file(name: str) -> Path:
    path = _stream_or_file(name)
    require_file(path)
    return path


def _folder(name: str) -> Path:
    if str(name) == "-":
        raise SettingsError("a folder cannot be written to standard output", where="--out", fix="name a folder")
    return Path(name)


def tell(text: str, *, out: Path | None) -> None:
    """Print a line about a command's work: on standard error where its output `out` is standard output."""
    typer.echo(text, err=is_stdout(out))


PATHS = Paths.under()
"""The places that dvc.yaml names, the model called as by default."""


def project_paths(
    caches: Path | None = None, cache: list[str] | None = None, *, name: str = "baseline", **places: Path | None
) -> Paths:
    """Return where a command reads and writes.

    Args:
        caches: Of `--caches`.
        cache: Of `--cache`.
        name: Name of the models, `train.name`.
        places: Files and folders by their names in `Paths`, such as those of `--prepared` and `--out`; these win. None
            leaves one where it is.

    Raises:
        SettingsError: A `--cache` is not of the form NAME=PATH, or names no cache.
    """
    paths = Paths.under(name=name).with_caches(caches, cache or ())
    return paths.at(**{place: path for place, path in places.items() if path is not None})


class Settings:
    """The sections of a settings file, changed by `--set`, each checked when a command asks for it.

    Args:
        params: The file.
        assignments: `section.key=value`, of `--set`.
        optional: Take the defaults where the file is the usual one and does not exist.

    Raises:
        SettingsError: The file cannot be read, a section is unknown, a key has another name now, or `models` is wrong.
    """

    def __init__(self, params: Path, assignments: list[str] | None, *, optional: bool = False) -> None:
        # Here, and not above: `sagecc --help` needs no settings.
        from pipeline.config import read_document, with_overrides
        from stages.settings import resolve

        self._where = str(params)
        is_absent = optional and params == PARAMS and not params.is_file()
        self._document = with_overrides({} if is_absent else read_document(params), assignments or [])
        self._resolved = resolve(self._document, where=params)

    @property
    def document(self) -> Mapping[str, Any]:
        """The file's content with the changes, `models` not yet copied to the stages."""
        return self._document

    def section(self, name: str, kind: type[SectionT]) -> SectionT:
        """Return one checked section."""
        from pipeline.config import parse_section

        return parse_section(self._resolved.get(name, {}), name, kind, where=self._where)

    @property
    def sections(self) -> dict[str, Section]:
        """All sections, checked."""
        from stages.settings import SECTIONS

        return {name: self.section(name, kind) for name, kind in SECTIONS.items()}

    def _named(self, name: str) -> Any:
        from stages.settings import SECTIONS

        return self.section(name, SECTIONS[name])

    @property
    def prepare(self) -> PrepareSettings:
        """Section `prepare`."""
        return cast("PrepareSettings", self._named("prepare"))

    @property
    def scenes(self) -> ScenesSettings:
        """Section `scenes`."""
        return cast("ScenesSettings", self._named("scenes"))

    @property
    def masks(self) -> MasksSettings:
        """Section `masks`."""
        return cast("MasksSettings", self._named("masks"))

    @property
    def regions(self) -> RegionsSettings:
        """Section `regions`."""
        return cast("RegionsSettings", self._named("regions"))

    @property
    def matches(self) -> MatchesSettings:
        """Section `matches`."""
        return cast("MatchesSettings", self._named("matches"))

    @property
    def semantics(self) -> SemanticsSettings:
        """Section `semantics`."""
        return cast("SemanticsSettings", self._named("semantics"))

    @property
    def graph(self) -> GraphSettings:
        """Section `graph`."""
        return cast("GraphSettings", self._named("graph"))

    @property
    def train(self) -> TrainSettings:
        """Section `train`."""
        return cast("TrainSettings", self._named("train"))

    @property
    def caption(self) -> CaptionSettings:
        """Section `caption`."""
        return cast("CaptionSettings", self._named("caption"))

    @property
    def evaluate(self) -> EvaluateSettings:
        """Section `evaluate`."""
        return cast("EvaluateSettings", self._named("evaluate"))

    @property
    def engine(self) -> EngineSettings:
        """Section `engine`."""
        return cast("EngineSettings", self._named("engine"))

    @property
    def pretrain(self) -> PretrainSettings:
        """Section `pretrain`."""
        return cast("PretrainSettings", self._named("pretrain"))
