from __future__ import annotations

import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.weights import load_state_dict, load_tensors

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.zeros(2), count=torch.tensor(3))


def attempt(path: Path, data: bytes) -> dict[str, Tensor] | CheckpointError:
    """Read a damaged file; whatever else it raises fails the test."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        # Of unusual pickle protocols.
        warnings.simplefilter("ignore")
        try:
            state = load_state_dict(path)
        except CheckpointError as error:
            assert error.fix
            assert error.what.startswith(("these weights cannot be read as plain tensors (", "not a state dict"))
            return error
    assert isinstance(state, dict)
    assert all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    return state


def damaged(whole: bytes, flips: int) -> Iterator[bytes]:
    """Yield the bytes with one or a few of them changed."""
    rng = np.random.default_rng(0)
    for number in range(flips):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 1 + number % 4):
            data[place] ^= int(rng.integers(1, 256))
        yield bytes(data)


@pytest.fixture(params=["legacy.pth", "zip.pth", "weights.safetensors"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(dict(STATE), path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=path.name.startswith("zip"))
    return path


def test_whole_files_come_back(whole: Path) -> None:
    found = load_state_dict(whole)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_a_file_cut_anywhere_is_refused(whole: Path) -> None:
    data = whole.read_bytes()
    # Every byte of the pickle; the other formats have lengths and tables of contents.
    step = 1 if whole.name == "legacy.pth" else 5
    places = [*range(0, min(400, len(data)), step), *range(400, len(data), 37 * step), len(data) - 1]
    for place in places:
        assert isinstance(attempt(whole, data[:place]), CheckpointError), place


def test_changed_bytes_are_refused_or_still_tensors(whole: Path) -> None:
    refused = [isinstance(attempt(whole, data), CheckpointError) for data in damaged(whole.read_bytes(), 200)]
    assert any(refused)


@pytest.mark.parametrize(
    "error", [struct.error("short"), MemoryError(), RecursionError("deep"), AssertionError(), TypeError("\n a tuple")]
)
def test_whatever_the_unpickler_trips_over_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def trip(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "weights.pth"
    path.write_bytes(b"anything")
    monkeypatch.setattr(torch, "load", trip)
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(path)
    said = str(error).strip() or type(error).__name__
    assert caught.value.what == f"these weights cannot be read as plain tensors ({said})"


def test_no_interruption_is_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "weights.pth").write_bytes(b"anything")
    monkeypatch.setattr(torch, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_state_dict(tmp_path / "weights.pth")


@pytest.mark.parametrize("legacy", [True, False])
def test_code_within_is_never_run(tmp_path: Path, legacy: bool) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.pth"
    torch.save({"weight": Evil()}, path, _use_new_zipfile_serialization=not legacy)
    assert isinstance(attempt(path, path.read_bytes()), CheckpointError)
    assert isinstance(attempt(path, pickle.dumps({"weight": Evil()})), CheckpointError)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("data", "name", "fix"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "a Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html>sign in</html>", "an HTML page", "download the file again"),
        (b"<?xml version='1.0'?><Error/>", "an XML document", "download the file again"),
    ],
)
def test_pointers_and_pages_are_called_by_their_name(
    tmp_path: Path, data: bytes, name: str, fix: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    for read in (load_state_dict, load_tensors):
        with pytest.raises(CheckpointError, match=f"they are {name}") as caught:
            read(path)
        assert fix in str(caught.value.fix)
