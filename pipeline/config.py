"""Sections of params.yaml: their base class, strict reading, changes by `--set`, and writing with comments."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
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

    def completes(self, values: Mapping[str, Any]) -> bool:
        """Tell whether this section, as a default, fills in what `values` leave out."""
        return True


def _over(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with every mapping that stands for a default section completed by that one."""
    completed = dict(values)
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(default, Section) and isinstance(value, Mapping) and default.completes(value):
            fields = dict(default)
            completed[name] = fields | _over(fields, value)
    return completed


def settings_hash(section: Section) -> str:
    """Return the 64-digit content key of a section's values, defaults included."""
    return content_key(section.model_dump(mode="json"))


def read_document(path: Path) -> Mapping[str, Any]:
    """Read params.yaml as a mapping of section names to their values, unchecked."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot read the settings: {error.strerror}",
            where=_whole(path),
            fix="run sagecc in its project folder or below it, name that by --project DIR, or the file by --params "
            "FILE; `sagecc init` writes new settings",
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError("the settings file is not UTF-8", where=path) from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise SettingsError("the settings file is not valid YAML", where=where) from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise SettingsError("the settings file must be a mapping of section names", where=path)
    return document


def _whole(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError:  # the working directory was deleted
        return path


def parse_section(values: Any, name: str, kind: type[SectionT], *, where: str | None = None) -> SectionT:
    """Check `values` against section `kind`; what they leave out takes its default.

    Raises:
        SettingsError: A key is unknown (the nearest known one is named), or a value has the wrong type or lies out
            of range.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"section `{name}` must be a mapping of keys to values", where=where)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(error, name, kind, where) from error
    except SettingsError as error:
        # Raised by a section within that is parsed by itself, such as `train.captioner`.
        raise SettingsError(error.what, where=error.where or where, fix=error.fix) from error


def _explain(error: ValidationError, name: str, kind: type[Section], where: str | None) -> SettingsError:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join([name, *location])
    if first["type"] == "extra_forbidden":
        names = _fields_at(kind, location[:-1])
        close = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(sorted(names))}"
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


@dataclass(frozen=True)
class Setting:
    """One key of params.yaml.

    Attributes:
        key: With its section: `train.learning_rate`.
        value: What it is set to.
        default: What it is where params.yaml does not name it.
        description: What it means.
    """

    key: str
    value: Any
    default: Any
    description: str

    @property
    def changed(self) -> bool:
        """Whether the value differs from the default."""
        return bool(self.value != self.default)


def iterate_settings(name: str, section: Section, default: Section | None = None) -> Iterator[Setting]:
    """Yield every key of a section and of the sections within it, in order.

    Args:
        name: The section's name, the prefix of all keys.
        section: The values.
        default: What they are compared with: the defaults of the section's class unless another section holds it.
    """
    default = type(section)() if default is None or type(default) is not type(section) else default
    for field_name, field in type(section).model_fields.items():
        key, value, standard = f"{name}.{field_name}", getattr(section, field_name), getattr(default, field_name)
        if isinstance(value, Section):
            yield from iterate_settings(key, value, standard if isinstance(standard, Section) else None)
        else:
            yield Setting(key, value, standard, field.description or "")


_WIDTH = 110
_SHORT = 2  # lines of a comment where only some keys are written


def render_params(
    sections: Mapping[str, Section],
    *,
    heading: str,
    shown: Collection[str] | None = None,
    omitted: Collection[str] = (),
) -> str:
    """Render sections as YAML, in order, with descriptions as comments; reading it back gives the same sections.

    Args:
        sections: By name.
        heading: Comment at the top.
        shown: Keys and sections within sections that are always written; of all others only what differs from the
            defaults, and comments are cut to two lines. None: every key, with its whole description.
        omitted: Keys and sections within sections that are never written, since others decide them.
    """
    lines = [f"# {line}" for line in textwrap.wrap(heading, _WIDTH)]
    for name, section in sections.items():
        body = _render_body(name, section, type(section)(), shown, omitted)
        lines += ["", *_comment(section.__doc__ or "", 0, shown is not None)]
        lines += [f"{name}:", *body] if body else [f"{name}: {{}}"]
    return "\n".join(lines) + "\n"


def _render_body(
    name: str, section: Section, default: Section, shown: Collection[str] | None, omitted: Collection[str]
) -> list[str]:
    depth = name.count(".") + 1
    indent = "  " * depth
    lines: list[str] = []
    for field_name, field in type(section).model_fields.items():
        key, value, standard = f"{name}.{field_name}", getattr(section, field_name), getattr(default, field_name)
        if key in omitted:
            continue
        is_shown = shown is None or key in shown
        if isinstance(value, Section):
            inner_default = standard if type(standard) is type(value) else type(value)()
            body = _render_body(key, value, inner_default, shown, omitted)
            if body or is_shown or standard is None:
                about = field.description or value.__doc__ or ""
                lines += _comment(about, depth, shown is not None)
                lines += [f"{indent}{field_name}:", *body] if body else [f"{indent}{field_name}: {{}}"]
        elif is_shown or value != standard:
            lines += _comment(field.description or "", depth, shown is not None)
            lines.append(f"{indent}{field_name}: {yaml_value(value)}")
    return lines


def _comment(description: str, depth: int, short: bool) -> list[str]:
    indent = "  " * depth
    text = description.strip().partition("\n\n")[0]
    limits: dict[str, Any] = {"max_lines": _SHORT, "placeholder": " …"} if short else {}
    return [f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent), **limits)]


def yaml_value(value: Any) -> str:
    """Return a value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple | frozenset) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
