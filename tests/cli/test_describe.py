from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from stages import describe


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "refuse"),
        (["--set", "prepare.strict=[size-mismatch]"], "remark"),
        (["--georeference", "remark"], "remark"),
        (["--georeference", "ignore"], "ignore"),
        (["--set", "prepare.strict=[size-mismatch]", "--georeference", "refuse"], "refuse"),
    ],
)
def test_what_is_done_about_another_ground_is_set_once_for_prepare_and_describe(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    given: dict[str, Any] = {}

    def run(*_: Any, **options: Any) -> describe.Description:
        given.update(options)
        return describe.Description(["a house is built"], [0.0], ["before: it is mirrored"])

    monkeypatch.setattr(describe, "run", run)
    result = CliRunner().invoke(app, ["describe", "a.png", "b.png", *arguments])
    assert result.exit_code == 0, result.output
    assert given["georeference"] == expected
    assert result.stdout == "a house is built\n"
    assert "before: it is mirrored" in result.stderr
