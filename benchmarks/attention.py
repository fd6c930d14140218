"""The paper's claim about the spatial bias (equation 18), measured where the truth is known: the synthetic world.

The captioner of the active settings, but of scenes alone (`fusion: none`), is trained with and without the bias, three
seeds each (`--quick`: one), on the prepared synthetic data set and scenes of this folder; trainings that were done
already are taken. Then it captions the split of `caption.split`, and of the truly changed pairs is counted:

- `bias_mass`, `no_bias_mass`: the share of the decoder's cross-attention to the image that falls on changed pixels,
  mean over words, layers, pairs and seeds; `even_mass` is what attention to all cells alike would reach;
- `bias_density`, `no_bias_density`: how many times as densely it lies on changed pixels as on the other ones;
- `bias_auc`, `no_bias_auc`: the area under the ROC curve of M_map as a detector of changed pixels.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Figures
from cli.options import Settings
from pipeline.cache.reader import Cache
from pipeline.config import parse_section
from pipeline.datasets.images import read_index_map
from pipeline.datasets.records import Prepared, read_prepared
from pipeline.errors import DataError
from pipeline.evaluation.attention_maps import area_under_curve, changed_share, mass_on_change
from pipeline.paths import Paths
from pipeline.training.inference import SCHEMA
from pipeline.training.settings import TrainSettings
from stages import caption, train
from stages.caption import EXPLANATION
from stages.settings import CaptionSettings

_PARAMS = Path("params.yaml")
_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class _ModelFigures:
    """Of one model: means over the changed pairs, and the area under M_map's curve."""

    mass: float
    even: float
    auc: float

    @property
    def density(self) -> float:
        """Attention on a changed pixel over that on another one, by the means."""
        return self.mass / self.even / ((1 - self.mass) / (1 - self.even))


def run(*, quick: bool = False) -> Figures:
    """Train, caption, count.

    Raises:
        DataError: The prepared data set has no change masks, or none of its pairs changed.
    """
    data = read_prepared(Paths.under().prepared)
    seeds = _SEEDS[:1] if quick else _SEEDS
    figures: Figures = {}
    for name, biased in (("bias", True), ("no_bias", False)):
        models = _measure(data, seeds, biased=biased)
        for measure in ("mass", "density", "auc"):
            values = [getattr(of_seed, measure) for of_seed in models]
            figures[f"{name}_{measure}"] = statistics.fmean(values)
            if len(values) > 1:
                figures[f"{name}_{measure}_deviation"] = statistics.stdev(values)
        figures["even_mass"] = models[0].even
    return figures


def _measure(data: Prepared, seeds: tuple[int, ...], *, biased: bool) -> list[_ModelFigures]:
    """Return each seed's attention maps."""
    active_settings = Settings(_PARAMS, None)
    settings = _training(active_settings.section("train", TrainSettings), seeds, biased=biased)
    engine, search = active_settings.engine, active_settings.section("caption", CaptionSettings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = Paths.under().at(models=folder / "models", curves=folder / "curves", captions=folder / "captions")
        train.run(settings, paths, engine=engine)
        caption.run(search, paths, engine=engine, explain=True)
        return [_count(data, paths.captions / f"seed-{seed}{EXPLANATION}") for seed in seeds]


def _training(active: TrainSettings, seeds: tuple[int, ...], *, biased: bool) -> TrainSettings:
    """Return the settings of a captioner of scenes alone, with or without the spatial bias."""
    values = active.model_dump() | {"seeds": seeds}
    values["captioner"]["fusion"] = "none"
    values["captioner"]["decoder"]["spatial_bias"] = biased
    return parse_section(values, "train", TrainSettings)


def _count(data: Prepared, path: Path) -> _ModelFigures:
    masses, evens, maps, shares = [], [], [], []
    with Cache.open(path, SCHEMA) as cache:
        for number, name in enumerate(cache.ids):
            pair = data.pairs[data.index[name]]
            if not pair.changed:
                continue
            if pair.change_mask is None:
                raise DataError(f"pair {name} has no change mask", where=data.folder, fix="take the synthetic data set")
            cells, _ = cache.rows("cells", [number])
            change, _ = cache.rows("change", [number])
            share = changed_share(read_index_map(data.root / pair.change_mask) > 0, change.shape[1:])
            masses.append(float(mass_on_change(cells, share).mean()))
            evens.append(float(share.mean()))
            maps.append(change[0])
            shares.append(share)
    if not masses:
        raise DataError("no pair of the split changed", where=data.folder)
    return _ModelFigures(statistics.fmean(masses), statistics.fmean(evens), area_under_curve(maps, shares))
