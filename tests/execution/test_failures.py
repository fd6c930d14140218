from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cache.reader import Cache
from pipeline.errors import DataError, ResourceError, ServiceError
from pipeline.execution.build import build_cache, failures_path
from pipeline.execution.failures import Failure, is_device_failure, ran_out
from tests.execution.resuming import run_items
from tests.execution.workers import SCHEMA, Refuses, Squares, engine, item, items, provenance

STICKY = [
    torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"
    ),
    RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA driver error: unspecified launch failure"),
]
NO_ROOM = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "the GPU's memory"),
    (torch.AcceleratorError("CUDA error: out of memory"), "the GPU's memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "the GPU's memory"),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "memory",
    ),
    (MemoryError("Unable to allocate 4.00 TiB for an array"), "memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
]
ORDINARY = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    ValueError("out of memory"),
    OSError(errno.EIO, "Input/output error"),
    ZeroDivisionError("thirteen"),
    DataError("the image is 1×1 pixels"),
]


def test_what_an_exception_means() -> None:
    assert [ran_out(error) for error, _ in NO_ROOM] == [memory for _, memory in NO_ROOM]
    assert not any(is_device_failure(error) for error, _ in NO_ROOM)
    assert all(is_device_failure(error) and ran_out(error) is None for error in STICKY)
    assert not any(is_device_failure(error) or ran_out(error) for error in ORDINARY)


def test_pytorch_still_says_it_in_these_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.float32)
    assert ran_out(caught.value) == "memory"


class Breaks(Squares):
    """Works until the item 500, at which `error` comes; what follows fails as well, as on a GPU."""

    def __init__(self, error: Exception, **options: Any) -> None:
        super().__init__(**options)
        self._error: Exception = error
        self._broken = False

    def compute(self, loaded: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        self._broken = self._broken or any(500 in values for values in loaded)
        if self._broken:
            raise self._error
        return super().compute(loaded)


@pytest.mark.parametrize("error", STICKY, ids=lambda error: str(error).partition("\n")[0][:40])
@pytest.mark.parametrize("on_bad_item", ["fatal", "skip"])
def test_a_gpu_that_fails_ends_the_run_and_no_item_is_called_bad(
    tmp_path: Path, error: Exception, on_bad_item: str
) -> None:
    todo = [*items(9)[1:], item([500.0], "the last straw"), *items(60)[9:]]
    run = partial(run_items, todo, work=tmp_path, engine=engine(on_bad_item=on_bad_item), group=6)
    with pytest.raises(ServiceError, match="the GPU failed while computing a batch of 1") as caught:
        run(partial(Breaks, error, batch_size=1))
    assert str(error).splitlines()[0] in caught.value.what and "\n" not in caught.value.what
    assert "engine.device" in str(caught.value.fix)
    # What was finished stays, that of the shard under way as well.
    run_items(items(9)[1:], Refuses, work=tmp_path, engine=engine())
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_gpu_that_fails_in_a_worker_process_ends_the_run(tmp_path: Path) -> None:
    todo = [*items(8), item([500.0]), *items(40)[8:]]
    with pytest.raises(ServiceError, match="an illegal memory access"):
        run_items(
            todo,
            partial(Breaks, RuntimeError("CUDA error: an illegal memory access was encountered")),
            work=tmp_path,
            engine=engine("local", workers=1, on_bad_item="skip"),
            group=4,
        )


@pytest.mark.parametrize(("error", "memory"), NO_ROOM, ids=lambda value: str(value)[:30])
def test_memory_that_runs_out_is_no_bad_item(tmp_path: Path, error: Exception, memory: str) -> None:
    run = partial(run_items, items(9), work=tmp_path, engine=engine(on_bad_item="skip"))

    class NoRoomToRead(Squares):
        def load(self, payload: list[float]) -> np.ndarray:
            raise error

    def builds() -> Squares:
        raise error

    for make, doing in (
        (partial(Breaks, error), None),
        (NoRoomToRead, "reading an item"),
        (builds, "loading the models"),
    ):
        todo = items(9) if doing else [item([500.0])]
        with pytest.raises(
            ResourceError, match=f"^{memory} ran out while {doing or 'computing a batch of 4'}"
        ) as caught:
            run_items(todo, make, work=tmp_path, engine=engine(on_bad_item="skip"))
        assert caught.value.fix
    run(Squares)


def test_unexpected_failures_in_a_row_stop_the_run_after_a_success_too(tmp_path: Path) -> None:
    good, bad = items(24), [item([13.0, float(number)]) for number in range(200, 240)]
    with pytest.raises(RuntimeError, match=r"\d+ items in a row fail: ZeroDivisionError: thirteen(.|\n)*in compute"):
        run_items([*good, *bad], Squares, work=tmp_path, engine=engine(on_bad_item="skip"), group=8)
    run_items(good, Refuses, work=tmp_path, engine=engine())


def test_unexpected_failures_among_good_items_are_bad_items(tmp_path: Path) -> None:
    todo = [one for index in range(20) for one in (item([13.0, 200.0 + index]), item([300.0 + index]))]
    store = run_items(todo, Squares, work=tmp_path, engine=engine(on_bad_item="skip"), group=8)
    assert len(store.failures) == 20


class Sizes(Squares):
    """Refuses numbers below zero as a worker of images refuses sizes, -7 and below with other advice, -99 with none."""

    def load(self, payload: list[float]) -> np.ndarray:
        if payload and payload[0] <= -99:
            raise DataError("broken", where="image.png")
        if payload and payload[0] < 0:
            fix = "set scenes.size to 64" if payload[0] > -7 else "run `sagecc prepare`"
            raise DataError("another size", where="image.png", fix=fix)
        return super().load(payload)


def test_advice_of_the_items_reaches_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [f"pair {index}" for index in range(9)]
    bad = [item([-float(index)], f"image {index}") for index in (1, 2, 3, 4, 5, 6)]

    def build(todo: list[Any], policy: str) -> Path:
        return build_cache(
            tmp_path / "squares.h5",
            SCHEMA,
            provenance(),
            ids,
            todo,
            Sizes,
            work=tmp_path / ".work",
            engine=engine(on_bad_item=policy),
        )

    one_kind = [*items(3), *bad]
    with pytest.raises(DataError) as caught:
        build(one_kind, "fatal")
    what, fix = caught.value.what, str(caught.value.fix)
    assert what.startswith("6 of 9 items failed") and "image 1: another size (image.png)" in what
    assert what.endswith("and 1 more")
    assert fix == "set scenes.size to 64, and run the same command again; or set engine.on_bad_item to skip"

    several = [*one_kind[:-3], item([-7.0], "image 7"), item([-99.0], "image 8"), item([-8.0], "image 9")]
    with pytest.raises(DataError) as caught:
        build(several, "fatal")
    fix = str(caught.value.fix)
    assert fix.startswith("set scenes.size to 64 (3 of them); run `sagecc prepare` (2 of them), and run")

    capsys.readouterr()
    path = build(several, "skip")
    told = capsys.readouterr().err
    assert "squares: 6 of 9 items failed and are left empty" in told
    assert "fix:   set scenes.size to 64 (3 of them); run `sagecc prepare` (2 of them)\n" in told
    assert str(failures_path(path)) in told
    listed = failures_path(path).read_text(encoding="utf-8")
    assert listed.count('"set scenes.size to 64"') == 3
    with Cache.open(path, SCHEMA) as cache:
        assert cache.missing.tolist() == [3, 4, 5, 6, 7, 8]


def test_items_are_named_in_their_own_order(tmp_path: Path) -> None:
    todo = [item([13.0], "fails late, in compute"), *items(4), item([-1.0], "fails early, in load")]
    with pytest.raises(DataError, match=r"fails late(.|\n)*fails early"):
        run_items(todo, Squares, work=tmp_path, engine=engine())


def test_a_failure_keeps_what_its_error_says() -> None:
    expected = Failure("the image is broken (a.png)", "copy it again")
    assert Failure.of(DataError("the image is broken", where="a.png", fix="copy it again")) == expected
    unexpected = Failure.of(KeyError("x"))
    assert unexpected.unexpected and unexpected.fix is None and "KeyError" in unexpected.trace
