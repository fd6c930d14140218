"""Training curves that DVC plots: one tab-separated file per score, written by DVCLive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.files import output_error


class Curves:
    """Writes records of epochs to `<folder>/plots/metrics/*.tsv`, with the epoch as step.

    A run that goes on after an interruption writes its earlier epochs again, so the files are whole and hold no epoch
    twice; they carry no times, so the same training gives the same bytes.

    Args:
        folder: Belongs to one model; what DVCLive left there before is replaced.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from dvclive.live import Live

        try:
            # Within a pipeline DVC itself keeps the experiment and dvc.yaml names the plots.
            self._live = Live(str(folder), resume=False, report=None, save_dvc_exp=False, dvcyaml=False)
        except OSError as error:
            raise output_error(error, folder) from error

    def add(self, record: Mapping[str, Any]) -> None:
        """Write one epoch's record, as history.json holds it."""
        self._live.step = record["epoch"]
        for name, value in record.items():
            if name != "epoch":
                self._live.log_metric(name, value)
        self._live.make_summary()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.end()


def write_curves(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the curves of a training that is over."""
    with Curves(folder) as curves:
        for record in records:
            curves.add(record)
