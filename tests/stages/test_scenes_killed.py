"""`sagecc scenes`, killed at random moments and finished, packs the same bytes as an unbroken run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from stages import scenes
from stages.settings import render_sections
from tests.execution.killing import run_and_kill, run_to_end
from tests.places import at
from tests.worlds.scene_data import make_data

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(900)
# Worker processes take seconds to start: larger images let the work last longer than that, so that kills meet it.
@pytest.mark.parametrize(("engine", "moments", "size"), [("inline", 12, 128), ("local", 8, 256)])
def test_kills_leave_no_trace_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, moments: int, size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared, settings = make_data(tmp_path, 160, size=size, batch_size=8)
    sections = {"scenes": settings, "engine": EngineSettings(engine=engine, workers=2, device="cpu")}
    (tmp_path / "params.yaml").write_text(render_sections(sections, heading="Test."), encoding="utf-8")
    output = tmp_path / "caches" / "scenes.h5"
    program = "from cli.main import main\nif __name__ == '__main__':\n    main()\n"
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "program.py", "scenes", "--prepared", str(prepared), "--out", str(output)]
    environment = {"PYTHONPATH": str(ROOT)}

    expected = sha256_file(
        scenes.run(
            settings,
            at(prepared=prepared, scenes=tmp_path / "whole.h5"),
            engine=EngineSettings(device="cpu"),
        )
    )

    def reset() -> None:
        shutil.rmtree(tmp_path / ".work", ignore_errors=True)
        shutil.rmtree(output.parent, ignore_errors=True)

    reset()
    seconds = run_to_end(command, cwd=tmp_path, env=environment)
    assert sha256_file(output) == expected
    partly_done = []

    def finish() -> None:
        partly_done.append(len(list((tmp_path / ".work").glob("scenes/*/*.safetensors"))))
        # The other engine finishes what this one began.
        other = EngineSettings(engine="inline", device="cpu")
        scenes.run(settings, at(prepared=prepared, scenes=output), engine=other)

    def check(moment: float) -> None:
        assert sha256_file(output) == expected, f"killed after {moment:.2f} s"
        assert [path.name for path in output.parent.iterdir()] == ["scenes.h5"]

    random = np.random.default_rng(0)
    killed = 0
    for _ in range(4 * moments):
        if killed == moments:
            break
        moment = float(random.uniform(0.4, 1.0)) * seconds
        reset()
        if run_and_kill(command, moment, cwd=tmp_path, env=environment):
            killed += 1
        else:
            # It was over before: the machine is quicker now than when the whole run was timed.
            seconds = moment
        finish()
        check(moment)
    assert killed == moments
    # Some kills fell between two shards: otherwise nothing was resumed.
    assert any(0 < shards < 10 for shards in partly_done), partly_done
