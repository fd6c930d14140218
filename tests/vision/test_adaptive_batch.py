from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.errors import ResourceError
from pipeline.vision.adaptive_batch import EVERYTHING, Portion


def room_for(most: int, tried: list[int]) -> Callable[[int], str]:
    def work(size: int) -> str:
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    return work


def test_batches_halve_until_they_fit_and_stay_so(capsys: pytest.CaptureFixture[str]) -> None:
    portion, tried = Portion(10, "prompts per pass", "ask less"), []
    assert portion.run(room_for(3, tried)) == "done"
    assert portion.run(room_for(3, tried)) == "done"
    assert tried == [10, 5, 2, 2]
    said = capsys.readouterr().err
    assert "memory ran out: going on with 5 prompts per pass" in said
    assert "going on with 2 prompts per pass" in said


def test_what_does_not_fit_at_all_is_the_projects_error() -> None:
    with pytest.raises(ResourceError, match=r"ran out even with one at a time \(images\)") as caught:
        Portion(4, "images", "make them smaller").run(room_for(0, []))
    assert caught.value.exit_code == 2
    assert str(caught.value.fix).startswith("make them smaller")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_are_not_swallowed() -> None:
    def work(size: int) -> None:
        raise RuntimeError(f"wrong: {size}")

    with pytest.raises(RuntimeError, match="wrong: 4"):
        Portion(4, "images", "").run(work)


def test_sizes_may_be_of_pixels_and_no_larger_than_what_there_is() -> None:
    portion, tried = Portion(1000, "masks", ""), []
    portion.run(room_for(3, tried), each=100)
    portion.run(room_for(3, tried), each=300)
    portion.run(room_for(3, tried), each=100, most=1)
    assert tried == [10, 5, 2, 1, 1]
    unbounded, tried = Portion(EVERYTHING, "masks", ""), []
    unbounded.run(room_for(3, tried), most=7)
    unbounded.run(room_for(3, tried), most=9)
    assert tried == [7, 3, 3]


def test_what_takes_the_room_may_lie_further_out() -> None:
    outer, inner, tried = Portion(4, "images", "outer"), Portion(8, "prompts", "inner"), []

    def images(size: int) -> str:
        def prompts(number: int) -> str:
            tried.append((size, number))
            if size > 1 or number > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return "done"

        return inner.run(prompts)

    assert outer.run(images) == "done"
    assert tried[:4] == [(4, 8), (4, 4), (4, 2), (4, 1)]
    assert tried[-2:] == [(1, 8), (1, 4)]
    assert (outer.size, inner.size) == (1, 4)


def test_items_go_through_in_portions_of_one_shape() -> None:
    portion, seen = Portion(5, "images per pass", ""), []

    def double(numbers: list[int]) -> list[int]:
        seen.append(numbers)
        if len(numbers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [2 * number for number in numbers]

    assert portion.map([1, 2, 3, 4, 5], double) == [2, 4, 6, 8, 10]
    assert seen == [[1, 2, 3, 4, 5], [1, 2], [3, 4], [5, 5]]
    assert Portion(5, "", "").map([1, 2], double) == [2, 4]
    assert Portion(5, "", "").map([], double) == []
