from __future__ import annotations

import pytest
import torch

from pipeline.vision.sam.memory import Portion


def test_batches_halve_until_they_fit_and_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    portion, tried = Portion(10, "prompts per pass"), []

    def work(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    assert portion.run(work) == "done"
    assert portion.run(work) == "done"
    assert tried == [10, 5, 2, 2]
    said = capsys.readouterr().err
    assert "memory ran out: going on with 5 prompts per pass" in said
    assert "going on with 2 prompts per pass" in said


def test_what_does_not_fit_at_all_is_told() -> None:
    def work(size: int) -> None:
        raise torch.OutOfMemoryError(f"CUDA out of memory at {size}.")

    with pytest.raises(torch.OutOfMemoryError, match="at 1"):
        Portion(4, "images").run(work)


def test_other_errors_are_not_swallowed() -> None:
    def work(size: int) -> None:
        raise RuntimeError(f"wrong: {size}")

    with pytest.raises(RuntimeError, match="wrong: 4"):
        Portion(4, "images").run(work)
