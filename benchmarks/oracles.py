"""What the mini models find in synthetic scenes that none of them has seen, against what the world knows of them.

The stages masks, regions, matches and semantics run with the settings of the default profile over a world of its own
seed. Beside the trained matcher stand mutual nearest neighbours at the threshold that is best for them, on the same
regions. Without `--quick` SAM is also tried at other sizes of its encoder. `run` gives the figures; `main` prints the
tables of docs/results.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from benchmarks.harness import Figures
from pipeline.cache.reader import Cache
from pipeline.config import Section
from pipeline.datasets.records import Prepared, read_prepared
from pipeline.datasets.world.pair import read_objects, read_picture
from pipeline.datasets.world.settings import WorldSettings
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.runtime import resolve_device
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.grounding.cache import read_semantics
from pipeline.vision.grounding.detector import Detector
from pipeline.vision.grounding.oracle import (
    LAND_COVER,
    class_iou,
    precision_by_category,
    predicted_land_cover,
    without_thresholds,
    world_land_cover,
)
from pipeline.vision.grounding.scenes import read_scenes
from pipeline.vision.grounding.settings import parse_prompts
from pipeline.vision.matching import oracle as matching
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.sam import oracle as sam
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.cache import read_masks
from stages import masks, matches, prepare, regions, semantics
from stages.profiles import profile_sections
from stages.settings import MasksSettings, MatchesSettings, PrepareSettings, RegionsSettings, SemanticsSettings

BARS = {
    "mask_recall": 0.8,
    **{f"{part}_{name}": 0.9 for part in ("matches", "u1", "u2") for name in ("precision", "recall")},
    "ap50_least": 0.6,
}

_SEED = 2_700_017
"""No model was trained and no setting chosen on this seed, and no data set of a profile is made of it."""
_SPLIT: Final = "train"
"""The split that a world has most of; here it only holds the images."""
_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_SIZES = (96, 160, 192)

T = TypeVar("T", bound=Section)


@dataclass(frozen=True)
class Tables:
    """What was measured.

    Attributes:
        recall: Objects found by SAM.
        masks: Mean number of masks of an image.
        matchers: Score by the name of a matcher.
        precision: AP50 by category.
        land: IoU of the semantic maps by class.
    """

    recall: sam.RecallReport
    masks: float
    matchers: dict[str, matching.Score]
    precision: dict[str, float]
    land: dict[str, float]


class Trial:
    """The stages of the default profile, run over a held-out world.

    Args:
        folder: Where to write.
        pairs: How many pairs the world has.
    """

    def __init__(self, folder: Path, pairs: int) -> None:
        # Its own work folder: what an earlier run has left would be taken for the work.
        self._folder, self._work = folder, folder / "work"
        self._sections = profile_sections("synthetic", None)
        self._engine = self._section("engine", EngineSettings)
        self._prepared = folder / "prepared"
        world = WorldSettings(train=pairs, val=1, test=1, seed=_SEED)
        prepare.run(
            PrepareSettings(dataset="synthetic", world=world),
            Paths.under().at(prepared=self._prepared),
            engine=self._engine,
        )
        self.data: Prepared = read_prepared(self._prepared)
        self.world = self.data.root
        self.rows = [row for row, pair in enumerate(self.data.pairs) if pair.split == _SPLIT]

    def tables(self) -> Tables:
        """Run all four stages and compare."""
        masks_path = self.find_masks(self._section("masks", MasksSettings))
        with Cache.open(masks_path, MASKS) as cache:
            recall, count = self._recall(cache), self._mean_masks(cache)
        return Tables(recall, count, self._matchers(masks_path), self._precision(), self._land())

    def encoder_sizes(self, sizes: Sequence[int]) -> dict[int, tuple[sam.RecallReport, float, float]]:
        """Return by size of the encoder: objects found, masks of an image, milliseconds an image."""
        rows = {}
        plain = self._section("masks", MasksSettings)
        for size in sizes:
            model = plain.sam.model_copy(update={"encoder_size": size})
            start = time.perf_counter()
            masks_path = self.find_masks(plain.model_copy(update={"sam": model}))
            each = 1000 * (time.perf_counter() - start) / (2 * len(self.data.pairs))
            with Cache.open(masks_path, MASKS) as cache:
                rows[size] = (self._recall(cache), self._mean_masks(cache), each)
        return rows

    def find_masks(self, settings: MasksSettings) -> Path:
        """Run the stage masks."""
        return masks.run(
            settings,
            Paths.under().at(prepared=self._prepared, masks=self._folder / "masks.h5", work=self._work),
            engine=self._engine,
        )

    def _section(self, name: str, kind: type[T]) -> T:
        section = self._sections[name]
        assert isinstance(section, kind)
        return section

    def _recall(self, cache: Cache) -> sam.RecallReport:
        scores: list[sam.ObjectScore] = []
        for name, record in read_objects(self.world, _SPLIT).items():
            for date, (folder, when) in enumerate((("A", "before"), ("B", "after"))):
                instances = read_picture(self.world, "instances", _SPLIT, folder, f"{name}.png")
                bitmaps = read_masks(cache, cache.unit(name, date)).bitmaps()
                scores += sam.score_objects(instances, record[when], bitmaps, min_area=sam.SIZES[0])
        return sam.report(scores)

    def _mean_masks(self, cache: Cache) -> float:
        return float(np.diff(cache.offsets("masks")).mean())

    def _matchers(self, masks_path: Path) -> dict[str, matching.Score]:
        described = regions.run(
            self._section("regions", RegionsSettings),
            Paths.under().at(
                prepared=self._prepared, masks=masks_path, regions=self._folder / "regions.h5", work=self._work
            ),
            engine=self._engine,
        )
        with Cache.open(masks_path, MASKS) as cache:
            truth = matching.read_ground_truth(self.world, _SPLIT, cache)
        learned = self._section("matches", MatchesSettings)
        scores = {}
        for method in (learned.method, "nearest"):
            settings = learned.model_copy(update={"method": method})
            target = self._folder / f"{method}.h5"
            out = matches.run(
                settings, Paths.under().at(regions=described, matches=target, work=self._work), engine=self._engine
            )
            with Cache.open(out, MATCHES) as cache:
                best = matching.best_threshold(truth, cache, settings.assignment, _THRESHOLDS)
                for threshold in dict.fromkeys((settings.assignment.threshold, best)):
                    chosen = settings.assignment.model_copy(update={"threshold": threshold})
                    scores[f"{method}, τ = {threshold:g}"] = matching.score_matches(truth, cache, chosen)
        return scores

    def _precision(self) -> dict[str, float]:
        settings = self._section("semantics", SemanticsSettings)
        scenes = read_scenes(self.world, _SPLIT)
        detector = Detector(
            without_thresholds(settings.grounding), resolve_device(self._engine.device), settings.batch_size
        )
        detections = detector.detect([image.permute(1, 2, 0).numpy() for image in scenes.images])
        return precision_by_category(scenes, detector.categories, detections)

    def _land(self) -> dict[str, float]:
        settings = self._section("semantics", SemanticsSettings)
        target = self._folder / "semantics.h5"
        out = semantics.run(
            settings, Paths.under().at(prepared=self._prepared, semantics=target, work=self._work), engine=self._engine
        )
        categories = parse_prompts(settings.grounding.prompts)
        predicted, true = [], []
        with Cache.open(out, SEMANTICS) as cache:
            for row in self.rows:
                for date, folder in enumerate("AB"):
                    name = self.data.pairs[row].id
                    predicted.append(predicted_land_cover(read_semantics(cache, 2 * row + date).map, categories))
                    true.append(world_land_cover(read_picture(self.world, "semantic", _SPLIT, folder, f"{name}.png")))
        ious = class_iou(np.stack(predicted), np.stack(true), len(LAND_COVER))
        return {name: float(iou) for name, iou in zip(LAND_COVER, ious, strict=True) if not np.isnan(iou)}


def run(*, quick: bool = False) -> Figures:
    """Measure; quick takes 20 pairs instead of 300.

    Raises:
        CheckpointError: A mini model is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        return figures(Trial(Path(folder), _pairs(quick)).tables())


def figures(tables: Tables) -> Figures:
    """Return the tables as flat figures; the matcher's are those of the trained one at the profile's τ."""
    score = next(iter(tables.matchers.values()))
    parts = {"matches": score.matches, "u1": score.disappeared, "u2": score.appeared}
    return {
        "mask_recall": tables.recall.whole.recall,
        **{f"mask_recall_{size}": part.recall for size, part in tables.recall.by_size.items()},
        **{f"{name}_precision": part.precision for name, part in parts.items()},
        **{f"{name}_recall": part.recall for name, part in parts.items()},
        "ap50_mean": float(np.mean(list(tables.precision.values()))),
        "ap50_least": min(tables.precision.values()),
        "map_miou": float(np.mean(list(tables.land.values()))),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks oracles", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 pairs instead of 300, one size of the encoder")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), _pairs(quick))
        tables = trial.tables()
        print(_recall_table(tables.recall), f"\n{tables.masks:.1f} masks an image\n", sep="\n")
        print(matching.table(tables.matchers), "", sep="\n")
        print(_row_table("AP50", tables.precision), "", _row_table("IoU of maps", tables.land), sep="\n")
        if not quick:
            print("", _size_table(trial.encoder_sizes(_SIZES)), sep="\n")
    return 0


def _pairs(quick: bool) -> int:
    return 20 if quick else 300


def _recall_table(report: sam.RecallReport) -> str:
    names = {least: f"{least} px and more" for least in report.by_size}
    names |= {least: f"{least}–{above - 1} px" for least, above in zip(sam.SIZES, sam.SIZES[1:], strict=False)}
    rows = {f"all, {sam.SIZES[0]} px and more": report.whole}
    rows |= {names[least]: part for least, part in report.by_size.items()} | report.by_kind
    lines = [
        f"| objects | number | recall at IoU {report.threshold:g} | mean best IoU |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [f"| {name} | {row.objects:,} | {row.recall:.3f} | {row.mean_iou:.3f} |" for name, row in rows.items()]
    return "\n".join(lines)


def _row_table(title: str, values: dict[str, float]) -> str:
    cells = {**values, "mean": float(np.mean(list(values.values())))}
    return "\n".join(
        [
            f"| {title} | {' | '.join(cells)} |",
            f"| --- |{' ---: |' * len(cells)}",
            f"| | {' | '.join(f'{value:.3f}' for value in cells.values())} |",
        ]
    )


def _size_table(rows: dict[int, tuple[sam.RecallReport, float, float]]) -> str:
    lines = ["| encoder size | recall | mean best IoU | masks an image | ms an image |", "| ---: |" + " ---: |" * 4]
    for size, (report, count, each) in rows.items():
        whole = report.whole
        lines.append(f"| {size} px | {whole.recall:.3f} | {whole.mean_iou:.3f} | {count:.1f} | {each:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
