"""From checked inputs to the trained models of several seeds, with their curves and training times."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch

from pipeline.datasets.records import Pair
from pipeline.errors import CheckpointError, DataError
from pipeline.files import content_key, read_json, sha256_file, write_json
from pipeline.progress import Bar, say, track
from pipeline.system_errors import output_error
from pipeline.training.batches import BatchLoader, caption_table, plan_in_order
from pipeline.training.checkpoints import Progress, copy_model, write_model
from pipeline.training.distributed import InterruptFlag, Ranks
from pipeline.training.inputs import Inputs, source_names
from pipeline.training.loop import Loop, Speed, Validator
from pipeline.training.model import ImageFront, PairCaptioner, build_model
from pipeline.training.scene_inputs import ImageSource
from pipeline.training.settings import TrainSettings

STATE = "state.safetensors"
_RUN = 16  # neighbours that are held out together: a scene of 1,024 pixels makes as many of 256
_TELL_EVERY = 5.0  # seconds between lines on finished epochs


@dataclass(frozen=True)
class Job:
    """Which models to train, from what, and where to. Picklable, for the processes that share a step.

    Attributes:
        settings: The stage's settings, resolved for the device.
        seeds: Those that are still to be trained.
        inputs: The prepared data set and what the captioner reads.
        key: Content key of the training; see `training_key`.
        work: Folder of the unfinished trainings, `seed-<n>` each.
        models: Folder of the finished models, `seed-<n>` each.
        curves: Folder of the curves, `seed-<n>` each; None for none.
    """

    settings: TrainSettings
    seeds: Sequence[int]
    inputs: Inputs
    key: str
    work: Path
    models: Path
    curves: Path | None


@dataclass(frozen=True)
class Choice:
    """The pairs that a training learns from, and those that it is validated on.

    Attributes:
        train: Captioned pairs of the training split.
        validation: Captioned pairs of the validation split, or others; see `validated_on`.
        validated_on: val: the validation split; held-out: a part of the training split, which is then not learnt
            from; train: the pairs that are learnt from.
        remarks: What the user should know about the choice.
    """

    train: list[Pair]
    validation: list[Pair]
    validated_on: Literal["val", "held-out", "train"]
    remarks: list[str]


def choose_pairs(inputs: Inputs, settings: TrainSettings) -> Choice:
    """Choose the pairs of a training.

    Raises:
        DataError: No training pair has a caption and all inputs.
    """
    remarks: list[str] = []

    def usable(split: Literal["train", "val"]) -> list[Pair]:
        pairs = inputs.data.split(split)
        lacking = inputs.lacking(pairs)
        complete = [pair for pair in pairs if pair.id not in lacking]
        captioned = [pair for pair in complete if pair.captions]
        if lacking:
            remarks.append(f"{len(lacking)} {split} pairs have no {source_names(lacking)} and are left out")
        if len(captioned) < len(complete):
            remarks.append(f"{len(complete) - len(captioned)} {split} pairs have no captions and are left out")
        return captioned

    train = usable("train")
    if not train:
        raise DataError(
            "no pair of the training split has both captions and all inputs",
            where=inputs.data.folder,
            fix="look at audit.json and at the *.failures.json beside the caches, or give pairs of the training split "
            "captions",
        )
    if settings.overfit:
        train = train[: settings.overfit]
        remarks.append(f"train.overfit: {len(train)} training pairs, validated on the same")
        return Choice(train, train, "train", remarks)
    learnt, held_out = hold_out(train, settings.hold_out)
    if held_out:
        remarks.append(f"train.hold_out: {len(held_out)} training pairs are validated on and not learnt from")
        return Choice(learnt, held_out, "held-out", remarks)
    validation = usable("val")
    if not validation:
        remarks.append("the validation split has no captioned pair: the training pairs are validated on instead")
        return Choice(train, train, "train", remarks)
    return Choice(train, validation, "val", remarks)


def hold_out(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """Divide pairs into those to learn from and about `share` of them to validate on.

    Runs of neighbours are held out, evenly spread: neighbouring pairs are often crops of one scene, which should not
    stand on both sides, and data sets are seldom in random order (of LEVIR-CC's last tenth 13 % are changed, of its
    fourth 75 %).
    """
    run = min(_RUN, max(1, round(share * len(pairs))))
    learnt: list[Pair] = []
    held_out: list[Pair] = []
    for position, pair in enumerate(pairs):
        number = position // run
        is_held_out = math.floor((number + 1) * share) > math.floor(number * share)
        (held_out if is_held_out else learnt).append(pair)
    return learnt, held_out


def training_key(settings: TrainSettings, inputs: Inputs, code: str) -> str:
    """Return the content key of everything but the seed that a trained model depends on.

    Args:
        settings: The stage's settings, resolved for the device.
        inputs: What the captioner is trained on.
        code: Digest of the code that trains it; see `pipeline.code.code_digest`.
    """
    cards = {name: card.model_dump(mode="json") for name, card in inputs.cards().items()}
    data = {"pairs": inputs.data.card.pairs_sha256, "vocabulary": inputs.vocabulary.sha256}
    return content_key(code, settings.result_values(), data, cards)


def seed_key(key: str, seed: int) -> str:
    """Return the content key of one seed's model; see `ModelCard.key`."""
    return content_key(key, seed)


def train_seeds(job: Job, ranks: Ranks) -> None:
    """Train the seeds of a job, one after the other; each model goes into place when it is finished.

    Raises:
        SageccError: An input is bad, the user stopped the run, the loss ran away, or a file cannot be written.
    """
    settings, inputs = job.settings, job.inputs
    choice = choose_pairs(inputs, settings)
    if ranks.rank == 0:
        for remark in choice.remarks:
            say(remark)

    def load(role: str, pairs: list[Pair]) -> BatchLoader:
        stores = inputs.stores(pairs, ranks.device, settings.data)
        if ranks.rank == 0:
            sizes = "; ".join(f"{name}: {store.describe()}" for name, store in stores.items())
            say(f"{role} pairs: {len(pairs)}; {sizes}")
        captions = caption_table([pair.captions for pair in pairs], inputs.vocabulary)
        return BatchLoader(stores, captions, ranks.device)

    training = load("training", choice.train)
    validation = training if choice.validation is choice.train else load("validation", choice.validation)
    validator = Validator(
        validation,
        plan_in_order(validation.captions, settings.validation_batch_size),
        {pair.id: [" ".join(inputs.vocabulary.tokenize(c)) for c in pair.captions] for pair in choice.validation},
        inputs.vocabulary,
        settings.select,
    )
    with InterruptFlag() as stop:
        for seed in job.seeds:
            model = _new_model(settings, inputs, seed, ranks.device)
            state = job.work / f"seed-{seed}" / STATE
            with ExitStack() as stack:
                curves = None
                if job.curves is not None and ranks.rank == 0:
                    curves = stack.enter_context(Curves(job.curves / f"seed-{seed}"))
                loop = Loop(model, settings, seed, training, validator, state, ranks, stop)
                if ranks.rank == 0:
                    bar = stack.enter_context(track(f"train seed {seed}", loop.steps_per_epoch * settings.epochs))
                    loop.tick, loop.observe = bar.advance, _Observer(settings, seed, bar, curves)
                    stack.enter_context(timed(state.with_name(SECONDS), goes_on=state.is_file()))
                progress = loop.run()
            if ranks.rank == 0:
                _finish(job, seed, choice, model, progress, loop.speed)
                state.unlink(missing_ok=True)


def _new_model(settings: TrainSettings, inputs: Inputs, seed: int, device: torch.device) -> PairCaptioner:
    front = None
    if isinstance(images := inputs.sources.get("images"), ImageSource):
        weights = Path(images.backbone.weights)
        front = ImageFront(images.backbone, weights, settings.batch_norm)
        if sha256_file(weights) != images.scenes.cache.provenance.weights.get("backbone"):
            raise CheckpointError(
                "these are not the backbone weights that the scenes were made with",
                where=weights,
                fix="run `sagecc scenes` again, or bring the weights back",
            )
    model = build_model(
        settings.captioner,
        inputs.vocabulary.size,
        inputs.shapes,
        seed=seed,
        front=front,
        smoothing=settings.label_smoothing,
        bf16=settings.precision == "bf16",
    )
    for name, source in inputs.sources.items():
        if (pretrained := source.pretrained()) is not None:
            model.captioner.load_pretrained(name, pretrained)
    return model.to(device)


def _finish(
    job: Job,
    seed: int,
    choice: Choice,
    model: PairCaptioner,
    progress: Progress,
    speed: Speed,
) -> None:
    settings, inputs = job.settings, job.inputs
    card = {
        "seed": seed,
        "key": seed_key(job.key, seed),
        "dataset": inputs.data.card.name,
        "pairs_sha256": inputs.data.card.pairs_sha256,
        "vocabulary_sha256": inputs.vocabulary.sha256,
        "device": model.device.type,
        "inputs": inputs.cards(),
        "train": settings.result_values(),
    }
    history: dict[str, Any] = {
        "pairs": {"train": len(choice.train), "validation": len(choice.validation)},
        "validated_on": choice.validated_on,
        "remarks": choice.remarks,
        "select": settings.select,
        "best_epoch": progress.best_epoch,
        "best": progress.best,
        "epochs": progress.history,
    }
    name = f"seed-{seed}"
    score = (progress.best or {})[settings.select]
    copy = write_model(job.work / name / "model", model, inputs.vocabulary, history, card)
    copy_model(copy, job.models / name)
    say(
        f"seed {seed}: best {settings.select} {score:.4g}, in epoch {progress.best_epoch} of {len(progress.history)}; "
        f"{speed.pairs_per_second:,.0f} pairs/s, {speed.data_wait_share:.2%} of it waiting for data"
    )


@dataclass
class _Observer:
    """Tells the curves of each epoch, and the user of as many as can be read."""

    settings: TrainSettings
    seed: int
    bar: Bar
    curves: Curves | None
    told_at: float = field(default_factory=time.monotonic)

    def __call__(self, record: dict[str, Any], speed: Speed) -> None:
        """See `pipeline.training.loop.Observer`."""
        if self.curves is not None:
            self.curves.add(record)
        epochs = self.settings.epochs
        if time.monotonic() - self.told_at < _TELL_EVERY and record["epoch"] < epochs:
            return
        self.told_at = time.monotonic()
        scores = ", ".join(f"{name} {value:.4g}" for name, value in record.items() if name != "epoch")
        self.bar.say(
            f"seed {self.seed}, epoch {record['epoch']}/{epochs}: {scores} "
            f"({speed.pairs_per_second:,.0f} pairs/s, {speed.data_wait_share:.2%} waiting for data)"
        )


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


SECONDS = "seconds.json"


@contextmanager
def timed(path: Path, *, goes_on: bool) -> Iterator[None]:
    """Write the seconds that the block takes to `path`, whether it ends or is interrupted; a kill adds nothing.

    Args:
        path: A JSON file.
        goes_on: Add them to those of earlier runs.

    Raises:
        OutputError: The file cannot be written.
    """
    before, start = (read_seconds(path) or 0.0) if goes_on else 0.0, time.perf_counter()
    try:
        yield
    finally:
        write_json(path, {"seconds": before + time.perf_counter() - start})


def read_seconds(path: Path) -> float | None:
    """Read what `timed` wrote; None where there is nothing that it could have written."""
    try:
        return float(read_json(path)["seconds"])
    except (DataError, KeyError, TypeError, ValueError):
        return None
