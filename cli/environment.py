"""What of the environment is put right, or refused, before a command runs."""

from __future__ import annotations

import io
import os
import pwd
import sys
from pathlib import Path
from typing import Final

from pipeline.errors import SettingsError

_NUMBERS: Final = {"COLUMNS": 1, "LINES": 1, "SOURCE_DATE_EPOCH": 0}
"""Optional variables that libraries read as whole numbers, some without a check, and the least of each.

rich takes a width of 0 by its word and prints nothing; to other programs 0 means that it is not known.
"""
_NO_DOCSTRINGS: Final = 2


def prepare_environment() -> None:
    """Put right what would let a library fail or say nothing, and refuse what cannot be put right.

    Raises:
        SettingsError: Python drops docstrings, from which transformers makes its classes.
    """
    for name, least in _NUMBERS.items():
        value = os.environ.get(name, str(least))
        if not (value.isascii() and value.isdecimal() and int(value) >= least):
            del os.environ[name]
    for stream in (sys.stdout, sys.stderr):
        # Captions and names of files hold signs that the encoding of a terminal or of PYTHONIOENCODING may lack.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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
