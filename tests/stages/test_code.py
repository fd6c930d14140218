"""What each stage declares of the code that it runs, in `stages.code` and in dvc.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.code import ROOT, forget
from stages import code
from stages.code import CHOICES, CODE, modules_run, render_code, render_dvc, stage_digest

HELP = "run `python -m stages.code`, and look at what it changes"


def difference(declared: tuple[str, ...], expected: tuple[str, ...]) -> list[str]:
    added = [f"+ {file}" for file in expected if file not in declared]
    return added + [f"- {file}" for file in declared if file not in expected]


@pytest.mark.parametrize("stage", CODE)
def test_a_stage_declares_the_modules_that_it_runs(stage: str) -> None:
    changes = difference(CODE[stage], modules_run(stage))
    assert changes == [], f"stages/code.py, CODE[{stage!r}]; {HELP}:\n" + "\n".join(changes)


@pytest.mark.parametrize("stage", CODE)
def test_dvc_watches_the_modules_that_a_stage_declares(stage: str) -> None:
    dependencies = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    watched = tuple(file for file in dependencies if file.startswith(("pipeline/", "stages/", "cli/")))
    changes = difference(watched, CODE[stage])
    assert changes == [], f"dvc.yaml, stage {stage}; {HELP}:\n" + "\n".join(changes)
    assert len(set(dependencies)) == len(dependencies)
    assert all((ROOT / file).is_file() for file in watched)


def test_every_stage_of_dvc_is_declared() -> None:
    assert list(CODE) == list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    assert CHOICES.keys() <= CODE.keys()


def test_a_stage_that_runs_an_undeclared_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "toy_stage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text('STAGES = {"squares": "toy_stage.squares:run"}\n')
    (package / "squares.py").write_text("def run():\n    return 1\n")
    (package / "undeclared.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(CHOICES, "scenes", ("toy_stage.registry",))
    forget()
    declared = modules_run("scenes")
    assert [file for file in declared if "toy_stage" in file] == [str(package / "squares.py")]
    (package / "squares.py").write_text("import toy_stage.undeclared\n\n\ndef run():\n    return 1\n")
    forget()
    assert difference(declared, modules_run("scenes")) == [f"+ {package / 'undeclared.py'}"]
    forget()


def test_the_command_writes_what_the_tests_ask_for() -> None:
    source = Path(code.__file__).read_text(encoding="utf-8")
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert (render_code(CODE, source), render_dvc(CODE, text)) == (source, text)
    shortened = CODE | {"scenes": CODE["scenes"][1:]}
    assert render_code(CODE, render_code(shortened, source)) == source
    again = render_dvc(shortened, text)
    assert len(again.splitlines()) == len(text.splitlines()) - 1
    assert render_dvc(CODE, again) == text


def test_stages_and_what_they_choose_have_digests_of_their_own() -> None:
    digests = [stage_digest(stage) for stage in CODE]
    digests.append(stage_digest("prepare", "pipeline.datasets.adapters.folder:ADAPTER"))
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)
