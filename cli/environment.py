"""What of the environment is put right, or refused, before a command runs."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Final

from pipeline.errors import SettingsError

_NUMBERS: Final = ("COLUMNS", "LINES", "SOURCE_DATE_EPOCH")
"""Variables that libraries read as numbers, some without a check; they are optional."""
_NO_DOCSTRINGS: Final = 2


def prepare_environment() -> None:
    """Put right what would let a library fail or say nothing, and refuse what cannot be put right.

    Raises:
        SettingsError: Python drops docstrings, from which transformers makes its classes.
    """
    for name in _NUMBERS:
        # rich takes a width of 0 by its word, and prints nothing; to others 0 means unknown.
        if not os.environ.get(name, "1").strip("0").isdecimal():
            del os.environ[name]
    if not Path(os.environ.get("HOME", "")).is_absolute():
        # Libraries look for their caches below it while they are imported.
        os.environ["HOME"] = _home()
    if sys.flags.optimize >= _NO_DOCSTRINGS:
        raise SettingsError(
            "Python runs without docstrings, of which libraries that sagecc uses make parts of their code",
            where="PYTHONOPTIMIZE=2 or python -OO",
            fix="unset PYTHONOPTIMIZE, or set it to 1",
        )


def _home() -> str:
    """Return the user's home as the system knows it; the root folder, as container engines do, where it knows none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or os.sep
    except KeyError:
        return os.sep
