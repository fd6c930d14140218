"""Writing params.yaml: every key with its value, and its description as the comment above it.

The base of all settings sections, and their strict reading from YAML.

Changing single settings from the command line: `--set section.key=value`.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.errors import SettingsError
from pipeline.files import content_key

SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """One section of params.yaml: frozen, typed, every field with a description, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Take what a section within leaves unsaid from this section's default of it, not from its type's."""
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.get_default(call_default_factory=True) for name, field in cls.model_fields.items()}
        return _over(defaults, values)


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with every mapping that stands for a default section completed by that one."""
    completed = dict(values)
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(default, Section) and isinstance(value, Mapping):
            fields = dict(default)
            completed[name] = fields | _over(fields, value)
    return completed


def settings_hash(section: Section) -> str:
    """Return the 64-digit content key of a section's values, defaults included."""
    return content_key(section.model_dump(mode="json"))


def load_section(path: Path, name: str, kind: type[SectionT]) -> SectionT:
    """Read section `name` of the settings file `path`.

    A section that the file does not hold takes its defaults.

    Raises:
        SettingsError: The file is missing or not YAML, a key is unknown (the nearest known one is named),
            or a value has the wrong type or lies out of range.
    """
    document = read_document(path)
    return parse_section(document.get(name) or {}, name, kind, where=str(path))


def read_document(path: Path) -> Mapping[str, Any]:
    """Read params.yaml as a mapping of section names to their values, unchecked."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot read the settings: {error.strerror}", where=path, fix="run `sagecc init synthetic`"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError("the settings file is not UTF-8", where=path) from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise SettingsError("the settings file is not valid YAML", where=place) from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise SettingsError("the settings file must be a mapping of section names", where=path)
    return document


def parse_section(values: Any, name: str, kind: type[SectionT], *, where: str = "settings") -> SectionT:
    """Check `values` against section `kind`; see `load_section` for what is raised."""
    if not isinstance(values, Mapping):
        raise SettingsError(f"section `{name}` must be a mapping of keys to values", where=where)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(error, name, kind, where) from error


def _explain(error: ValidationError, name: str, kind: type[Section], where: str) -> SettingsError:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join([name, *location])
    if first["type"] == "extra_forbidden":
        known = _fields_at(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(known))}"
        return SettingsError(f"unknown key `{key}`", where=where, fix=hint)
    message = first["msg"].removeprefix("Value error, ")
    given = f" (given: {first['input']!r})" if not isinstance(first["input"], dict) else ""
    return SettingsError(f"`{key}`: {message}{given}", where=where, fix=f"correct `{key}`")


def _fields_at(kind: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        field = kind.model_fields.get(part)
        if field is None:
            break
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            break
        kind = inner
    return list(kind.model_fields)


def with_overrides(document: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a settings document with `section.key=value` assignments applied; values are YAML.

    Raises:
        SettingsError: An assignment is not of that form.
    """
    changed = {name: _copy(value) for name, value in document.items()}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise SettingsError(f"cannot read {assignment!r}", where="--set", fix="write --set section.key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"the value of {path} is not valid YAML", where="--set") from error
        target = changed
        for key in keys[:-1]:
            inner = target.get(key)
            if inner is None:
                inner = target[key] = {}
            if not isinstance(inner, dict):
                raise SettingsError(f"`{path}` is not a key: `{key}` holds a value, not keys", where="--set")
            target = inner
        target[keys[-1]] = value
    return changed


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


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
