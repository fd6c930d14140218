"""Stage `caption`: sentences for the pairs of one split, from the models of all seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.no_change import Sentences
from pipeline.datasets.records import Pair
from pipeline.errors import CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import atomic_folder, write_json
from pipeline.paths import Paths
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.training.checkpoints import ModelCard, Trained, load_model, model_folders, read_card, train_settings
from pipeline.training.inference import AttentionRecorder, Sentence, caption_batches, stored_batches
from pipeline.training.inputs import Inputs, check_cards, open_inputs, source_names
from pipeline.training.stores import Store
from stages.settings import CaptionSettings

PROVENANCE = "provenance.json"
EXPLANATION = ".explanation.h5"
_DIGITS = 4  # of scores in the files: fewer than what one machine's arithmetic may differ from another's


def run(settings: CaptionSettings, paths: Paths, *, engine: EngineSettings, explain: bool = False) -> Path:
    """Describe the pairs of a split with each trained seed.

    Args:
        settings: Split and search.
        paths: The prepared data set, the models, and the caches that they read. Writes the folder `captions` as a
            whole: `seed-<n>.json` in COCO's results format (a list of `image_id`, `caption`, `score`, and with several
            sentences per pair `n_best`), provenance.json (`left_out`: pairs that a stage skipped, with what they lack),
            and with `explain` `seed-<n>.explanation.h5`.
        engine: Which device.
        explain: Also write the attention maps of the best sentences; see `pipeline.training.inference.SCHEMA`.

    Returns:
        `paths.captions`.

    Raises:
        CheckpointError: There is no trained model, one is damaged, or they read different inputs.
        DataError: The models were trained with another data set's vocabulary.
        CacheError: A cache that is read is not of the prepared pairs, or was made otherwise than the training's; or the
            graph is another one.
        OutputError: The folder cannot be written or holds other files.
        SettingsError: With `change: mass`, the no-change sentences of the models' data set are not known.
    """
    device = resolve_device(engine.device)
    cards = {folder: read_card(folder) for folder in model_folders(paths.models)}
    opened = _open_inputs(cards, paths)
    for folder, card in cards.items():
        _check_vocabulary(card, opened[folder], folder, settings)
    first = next(iter(opened.values()))
    split, pairs, lacking, remarks = _choose_pairs(first, settings)
    for remark in remarks:
        say(remark)

    stores: dict[int, dict[str, Store[Any]]] = {}
    with atomic_folder(paths.captions, replaces=_own_files(paths.captions)) as folder:
        for model, inputs in opened.items():
            trained = load_model(model, device)
            if id(inputs) not in stores:
                stores[id(inputs)] = inputs.stores(pairs, device, with_rows=explain)
            recorder = AttentionRecorder(trained) if explain else None
            captioned = caption_batches(
                trained,
                stored_batches(stores[id(inputs)], len(pairs), settings.batch_size),
                settings,
                change_threshold=settings.change_threshold if settings.change == "mass" else None,
                no_change=_no_change(trained, inputs),
                observer=recorder,
            )
            sentences = [of_pair for batch in captioned for of_pair in batch]
            results = [_result(pair, of_pair) for pair, of_pair in zip(pairs, sentences, strict=True)]
            write_json(folder / f"{model.name}.json", results)
            if recorder is not None:
                path = folder / f"{model.name}{EXPLANATION}"
                recorder.write(path, [pair.id for pair in pairs], inputs.data, settings)
            say(f"{model.name}: {len(results)} pairs of the {split} split described")
        provenance = {
            "dataset": first.data.card.name,
            "pairs_sha256": first.data.card.pairs_sha256,
            "split": split,
            "pairs": len(pairs),
            "left_out": lacking,
            "remarks": remarks,
            "models": {model.name: card.weights_sha256 for model, card in cards.items()},
            "settings": settings.model_dump(mode="json"),
        }
        write_json(folder / PROVENANCE, provenance)
    return paths.captions


def _open_inputs(cards: dict[Path, ModelCard], paths: Paths) -> dict[Path, Inputs]:
    """Open the inputs of each model, made as for its training; models with equal captioners share them."""
    if len({tuple(card.inputs) for card in cards.values()}) > 1:
        raise CheckpointError("the models read different inputs", where=paths.models, fix="run `sagecc train`")
    by_captioner: dict[CaptionerSettings, Inputs] = {}
    opened = {}
    for folder, card in cards.items():
        captioner = train_settings(card, folder).captioner
        if captioner not in by_captioner:
            by_captioner[captioner] = open_inputs(paths, captioner, tuple(card.inputs), training=False)
        inputs = opened[folder] = by_captioner[captioner]
        same_pairs = card.pairs_sha256 == inputs.data.card.pairs_sha256
        check_cards(card.inputs, inputs.cards(), same_pairs=same_pairs, model=folder, paths=paths)
    return opened


def _choose_pairs(inputs: Inputs, settings: CaptionSettings) -> tuple[str, list[Pair], dict[str, list[str]], list[str]]:
    """Return the split that is described, its pairs with all inputs, the others with what they lack, and remarks."""
    remarks = []
    splits: list[Literal["train", "val", "test"]] = ["val", "train"]
    for split in dict.fromkeys([settings.split, *splits]):
        pairs = inputs.data.split(split)
        lacking = inputs.lacking(pairs)
        if len(lacking) < len(pairs):
            if split != settings.split:
                pairs_of = "pairs with all inputs" if inputs.data.split(settings.split) else "pairs"
                remarks.append(f"the {settings.split} split has no {pairs_of}: the {split} split is described instead")
            if lacking:
                remarks.append(f"{len(lacking)} {split} pairs have no {source_names(lacking)} and are not described")
            return split, [pair for pair in pairs if pair.id not in lacking], lacking, remarks
    raise DataError(
        "there is no pair to describe",
        where=inputs.data.folder,
        fix="run `sagecc prepare`, and look at the *.failures.json beside the caches",
    )


def _no_change(trained: Trained, inputs: Inputs) -> Sentences | None:
    """Return the no-change sentences of the prepared data set, where the model was trained on it."""
    prepared = inputs.data.card
    return prepared.no_change or None if prepared.name == trained.card.dataset else None


def _check_vocabulary(card: ModelCard, inputs: Inputs, folder: Path, settings: CaptionSettings) -> None:
    if card.vocabulary_sha256 == inputs.vocabulary.sha256 or settings.allow_other_dataset:
        return
    dataset = inputs.data.card.name
    other = f"of the data set {card.dataset}" if card.dataset != dataset else "prepared with other settings or captions"
    raise DataError(
        f"the model's vocabulary is not that of the prepared data set {dataset}: it is one {other}",
        where=folder / "vocabulary.json",
        fix="run `sagecc train` on this data set, or set caption.allow_other_dataset: true to describe it anyway",
    )


def _result(pair: Pair, sentences: list[Sentence]) -> dict[str, Any]:
    scored = [{"caption": s.text, "score": round(s.hypothesis.score, _DIGITS)} for s in sentences]
    result: dict[str, Any] = {"image_id": pair.id, **scored[0]}
    if len(scored) > 1:
        result["n_best"] = scored
    return result


def _own_files(output: Path) -> set[str]:
    endings = rf"seed-\d+(\.json|{re.escape(EXPLANATION)})"
    seeds = {path.name for path in output.glob("seed-*") if re.fullmatch(endings, path.name)}
    return seeds | {PROVENANCE, ".gitignore"}
