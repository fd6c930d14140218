"""Changing single settings from the command line: `--set section.key=value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from pipeline.errors import SettingsError


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
