"""What a second worker process brings the stage masks, start-up told apart from the work.

Each number of workers runs the stage over a few and over many images; the images per second are those of the
difference, in which the start of the workers does not stand. Each run begins from nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from benchmarks.harness import Figures, interleaved
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from stages import masks, prepare
from stages.profiles import profile_sections
from stages.settings import MasksSettings, PrepareSettings

BARS = {"vs_one_worker": 1.7}


def run(*, quick: bool = False) -> Figures:
    """Measure with the default profile's masks; quick takes fewer images, which lets more of the noise in.

    Raises:
        CheckpointError: The mini SAM is not there.
    """
    few, many, rounds = (32, 96, 1) if quick else (64, 384, 3)
    settings = profile_sections("synthetic", None)["masks"]
    assert isinstance(settings, MasksSettings)
    weights = str(Path(settings.sam.weights).resolve())
    settings = settings.model_copy(update={"sam": settings.sam.model_copy(update={"weights": weights})})
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as name, chdir(name):
        prepare.run(
            PrepareSettings(dataset="synthetic", world=WorldSettings(train=many // 2, val=0, test=0)),
            Paths.under().at(prepared=Path("prepared")),
            engine=EngineSettings(),
        )
        data = read_prepared(Path("prepared"))
        for count in (few, many):
            write_prepared(Path(f"{count}"), data.card.name, str(data.root.resolve()), data.pairs[: count // 2])

        def seconds(workers: int, count: int) -> float:
            with tempfile.TemporaryDirectory() as fresh:
                prepared = Path(f"{count}").resolve()
                with chdir(fresh):
                    begin = time.perf_counter()
                    engine = EngineSettings(engine="local", workers=workers, device="cpu")
                    masks.run(settings, Paths.under().at(prepared=prepared, masks=Path("masks.h5")), engine=engine)
                    return time.perf_counter() - begin

        def side(workers: int) -> Callable[[], float]:
            def rate() -> float:
                small, large = seconds(workers, few), seconds(workers, many)
                each = (large - small) / (many - few)
                starts.append(small - few * each)
                return 1 / each

            return rate

        measured = interleaved({"two": side(2), "one": side(1)}, rounds, warm_up=False)
    ratio = measured.ratio("two", "one")
    return {
        **ratio.figures("vs_one_worker"),
        "images_per_s_one": ratio.b,
        "images_per_s_two": ratio.a,
        "start_s": sum(starts) / len(starts),
    }
