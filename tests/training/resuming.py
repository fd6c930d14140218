"""An interrupted training of a mini model ends in the bytes of one that ran through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.files import sha256_file


def check_resumed(
    run: Callable[[Path], Path],
    whole: Path,
    work: Path,
    pretraining: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Train as `whole` was trained, interrupted in the second epoch; then go on, and compare the weights.

    Args:
        run: Trains two epochs into a file.
        whole: Weights of a training that ran through.
        work: The stage's folder of training states; it holds that training's state.
        pretraining: The module whose `validate` ends every epoch.
        monkeypatch: Replaces it.
    """
    (state,) = work.glob("*/state.safetensors")
    state.unlink()
    validate = pretraining.validate

    def stop_in_the_second_epoch(*arguments: object) -> dict[str, float]:
        if state.exists():
            raise KeyboardInterrupt
        return validate(*arguments)

    resumed = whole.with_stem("resumed")
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "validate", stop_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            run(resumed)
    assert not resumed.exists()
    assert sha256_file(run(resumed)) == sha256_file(whole)
