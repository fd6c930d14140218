from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.errors import ResourceError
from pipeline.vision.adaptive_batch import EVERYTHING, AdaptiveBatch, padded_chunks


def room_for(capacity: int, tried: list[int]) -> Callable[[int], str]:
    def work(size: int) -> str:
        tried.append(size)
        if size > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    return work


def test_batches_halve_until_they_fit_for_good(capsys: pytest.CaptureFixture[str]) -> None:
    tried: list[int] = []
    batch = AdaptiveBatch(10, "prompts per pass", "ask less")
    assert batch.run(room_for(3, tried)) == "done"
    assert batch.run(room_for(3, tried)) == "done"
    assert tried == [10, 5, 2, 2]
    said = capsys.readouterr().err
    assert "memory ran out: going on with 5 prompts per pass" in said
    assert "going on with 2 prompts per pass" in said


def test_one_item_that_does_not_fit_is_a_resource_error() -> None:
    with pytest.raises(ResourceError, match=r"ran out even with one at a time \(images\)") as caught:
        AdaptiveBatch(4, "images", "make them smaller").run(room_for(0, []))
    assert caught.value.exit_code == 2
    assert str(caught.value.fix).startswith("make them smaller")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize("kind", [RuntimeError, torch.AcceleratorError, OSError])
def test_other_errors_are_not_swallowed(kind: type[Exception]) -> None:
    def work(size: int) -> None:
        raise kind(f"wrong: {size}")

    with pytest.raises(kind, match="wrong: 4"):
        AdaptiveBatch(4, "images", "").run(work)


@pytest.mark.parametrize(
    ("error", "memory", "advice"),
    [
        (RuntimeError("CUDA error: out of memory"), "the GPU's memory", "ask less; or set engine.device to cpu"),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
            "the GPU's memory",
            "ask less; or set engine.device to cpu",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory", "ask less"),
        (MemoryError("Unable to allocate 3 TiB"), "memory", "ask less"),
    ],
)
def test_memory_is_told_by_the_words_of_the_error_as_well(
    error: Exception, memory: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(size: int) -> int:
        if size > room:
            raise error
        return size

    room = 2
    assert AdaptiveBatch(4, "images", "ask less").run(work) == 2
    assert f"{memory} ran out: going on with 2 images" in capsys.readouterr().err
    room = 0
    with pytest.raises(ResourceError, match=f"^{memory} ran out even with one") as caught:
        AdaptiveBatch(4, "images", "ask less").run(work)
    assert caught.value.fix == advice


def test_batches_halve_when_a_real_allocation_on_the_cpu_fails() -> None:
    def work(size: int) -> int:
        return size if size < 3 else len(torch.empty(size << 45))

    assert AdaptiveBatch(8, "images", "").run(work) == 2


def test_size_may_count_pixels_and_is_limited_by_the_count() -> None:
    tried: list[int] = []
    batch = AdaptiveBatch(1000, "masks", "")
    batch.run(room_for(3, tried), cost=100)
    batch.run(room_for(3, tried), cost=300)
    batch.run(room_for(3, tried), cost=100, count=1)
    assert tried == [10, 5, 2, 1, 1]
    tried.clear()
    unbounded = AdaptiveBatch(EVERYTHING, "masks", "")
    unbounded.run(room_for(3, tried), count=7)
    unbounded.run(room_for(3, tried), count=9)
    assert tried == [7, 3, 3]


def test_outer_batch_halves_when_its_own_items_do_not_fit() -> None:
    outer, inner, tried = AdaptiveBatch(4, "images", "outer"), AdaptiveBatch(8, "prompts", "inner"), []

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


def test_items_are_processed_in_batches_of_one_shape() -> None:
    batch, seen = AdaptiveBatch(5, "images per pass", ""), []

    def double(numbers: list[int]) -> list[int]:
        seen.append(numbers)
        if len(numbers) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [2 * number for number in numbers]

    assert batch.map([1, 2, 3, 4, 5], double) == [2, 4, 6, 8, 10]
    assert seen == [[1, 2, 3, 4, 5], [1, 2], [3, 4], [5, 5]]
    assert AdaptiveBatch(5, "", "").map([1, 2], double) == [2, 4]
    assert AdaptiveBatch(5, "", "").map([], double) == []


def test_chunks_are_padded_by_repetition() -> None:
    chunks = [(chunk.tolist(), real) for chunk, real in padded_chunks(np.arange(5), 3)]
    assert chunks == [([0, 1, 2], 3), ([3, 4, 4], 2)]
    assert list(padded_chunks(np.arange(0), 3)) == []
