"""Settings that are paths: taken as they stand, by stages and by DVC alike.

Shells expand `~` and `$NAME`; params.yaml is read by DVC too, which does not. So `sagecc init` writes the root of the
data set expanded, and a setting that is not is refused with the path that it would be.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import AfterValidator

PathLike = TypeVar("PathLike", str, Path)

_VARIABLE: Final = re.compile(r"\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\})|^%[A-Za-z_]\w*%")


def expanded(text: str) -> str:
    """Return a path with `~` and the environment's variables in the place of their values, where they have any."""
    return os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises for unknown users)


def literal_path(path: PathLike) -> PathLike:
    """Return the path of a setting if it has nothing that only a shell expands.

    Raises:
        ValueError: It begins with `~` or holds a variable; the message has the path that is meant.
    """
    text = str(path)
    variable = _VARIABLE.search(text)
    if not text.startswith("~") and variable is None:
        return path
    sign = "`~`" if variable is None else f"`{variable[0]}`"
    meant = expanded(text)
    if _VARIABLE.search(meant) or meant.startswith("~"):
        advice = "this environment has no value for it: write the path in full"
    else:
        advice = f"write {meant}"
    raise ValueError(f"shells expand {sign}, settings are taken as they stand; {advice}")


PathText = Annotated[str, AfterValidator(literal_path)]
"""A path as text."""

PathSetting = Annotated[Path, AfterValidator(literal_path)]
"""A path."""
