"""Typed, frozen settings: params.yaml in, one section per stage out; what is unknown or out of range is refused."""

from pipeline.config.overrides import with_overrides
from pipeline.config.render import render_params
from pipeline.config.sections import Section, load_section, parse_section, read_document, settings_hash

__all__ = [
    "Section",
    "load_section",
    "parse_section",
    "read_document",
    "render_params",
    "settings_hash",
    "with_overrides",
]
