"""Registries: names that settings may give, and the code that each name stands for."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from pipeline.errors import SettingsError

_T = TypeVar("_T")


class Registry(Mapping[str, str], Generic[_T]):
    """A mapping from a name to "module:attribute", which is imported only when the name is resolved.

    Settings can thus list and validate the names without loading torch or any other heavy library.

    Args:
        kind: What is registered, in the singular, for error messages: "scene backbone".
        where: The setting that gives the name, for error messages: "models.backbone.backbone".
    """

    def __init__(self, kind: str, *, where: str | None = None) -> None:
        self._kind = kind
        self._where = where
        self._targets: dict[str, str] = {}
        self._descriptions: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._targets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, in the order of registration."""
        return tuple(self._targets)

    def register(self, name: str, target: str, description: str = "") -> None:
        """Add a name.

        Args:
            name: The name that settings give.
            target: The importable object that it stands for, "package.module:attribute".
            description: A few words for the help of the setting.

        Raises:
            SettingsError: The name is registered already, or the target is not of the form "module:attribute".
        """
        if name in self._targets:
            raise SettingsError(
                f"there are two definitions of the {self._kind} {name!r}: {self._targets[name]} and {target}",
                where=self._where,
                fix="register one of them under another name",
            )
        module, separator, attribute = target.partition(":")
        if not (module and separator and attribute):
            raise SettingsError(
                f"{target!r} is not of the form module:attribute", where=f"registration of the {self._kind} {name!r}"
            )
        self._targets[name] = target
        self._descriptions[name] = description

    def unregister(self, name: str) -> None:
        """Remove a name; for tests and notebooks, which register things for a while."""
        del self._targets[name], self._descriptions[name]

    def validate(self, name: str) -> str:
        """Return `name` as it is; for `pydantic.AfterValidator` on the setting that gives it.

        Raises:
            ValueError: It is not registered; the message lists the names.
        """
        if name not in self._targets:
            close = difflib.get_close_matches(name, self._targets, n=1)
            question = f", did you mean {close[0]}?" if close else ""
            raise ValueError(f"unknown {self._kind}{question}; choose one of {', '.join(self._targets)}")
        return name

    def resolve(self, name: str) -> _T:
        """Import what `name` stands for.

        Raises:
            SettingsError: The name is not registered, or its module or attribute does not exist.
        """
        try:
            target = self._targets[self.validate(name)]
        except ValueError as error:
            raise SettingsError(f"{name!r}: {error}", where=self._where) from None
        try:
            return cast(_T, pkgutil.resolve_name(target))
        except (ImportError, AttributeError) as error:
            raise SettingsError(
                f"the {self._kind} {name!r} cannot be imported from {target}: {error}",
                where=self._where,
                fix="correct the module or attribute in its registration, or install what it needs",
            ) from error

    def describe(self) -> str:
        """Return the names with their descriptions, for the help of a setting: "mini (ships), resnet18, resnet50"."""
        return ", ".join(f"{name} ({text})" if text else name for name, text in self._descriptions.items())
