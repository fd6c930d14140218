"""Writing params.yaml: every key with its value, and its description as the comment above it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.config.sections import Section

_WIDTH = 110


def render_params(sections: Mapping[str, Section], *, heading: str) -> str:
    """Render sections as YAML, in order, with descriptions as comments; reading it back gives the same sections."""
    lines = [f"# {line}" for line in textwrap.wrap(heading, _WIDTH)]
    for name, section in sections.items():
        lines.append("")
        lines.extend(_render(name, section, section.__doc__ or "", depth=0))
    return "\n".join(lines) + "\n"


def _render(name: str, value: Any, description: str, *, depth: int) -> list[str]:
    indent = "  " * depth
    first = description.strip().partition("\n\n")[0]
    comment = [f"{indent}# {line}" for line in textwrap.wrap(first, _WIDTH - len(indent))]
    if not isinstance(value, Section):
        return [*comment, f"{indent}{name}: {_scalar(value)}"]
    lines = [*comment, f"{indent}{name}:"]
    for key, field in type(value).model_fields.items():
        inner = getattr(value, key)
        about = field.description or (inner.__doc__ if isinstance(inner, Section) else "") or ""
        lines.extend(_render(key, inner, about, depth=depth + 1))
    return lines


def _scalar(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple | frozenset) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
