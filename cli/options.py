"""Options that several commands share, and the reading of their settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config import SectionT, parse_section, read_document, with_overrides
from pipeline.errors import SettingsError
from pipeline.execution.settings import EngineSettings

Params = Annotated[Path, typer.Option("--params", help="The settings file.", show_default=True)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting for this run; may be repeated."),
]
PARAMS = Path("params.yaml")


class Settings:
    """The sections of a settings file, changed by `--set`, each checked when it is asked for."""

    def __init__(self, params: Path, assignments: list[str] | None) -> None:
        from stages.settings import SECTIONS

        self._where = str(params)
        self._document = with_overrides(read_document(params), assignments or [])
        unknown = [name for name in self._document if name not in SECTIONS]
        if unknown:
            known = ", ".join(SECTIONS)
            raise SettingsError(f"unknown section `{unknown[0]}`", where=params, fix=f"known sections: {known}")

    @property
    def document(self) -> Mapping[str, Any]:
        """All sections as they stand in the file and were changed, unchecked but for their names."""
        return self._document

    def section(self, name: str, kind: type[SectionT]) -> SectionT:
        """Return one checked section."""
        return parse_section(self._document.get(name) or {}, name, kind, where=self._where)

    @property
    def engine(self) -> EngineSettings:
        """How to run."""
        return self.section("engine", EngineSettings)
