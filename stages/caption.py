"""Stage `caption`: sentences for the pairs of one split, from the models of all seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pipeline.captioners.settings import CaptionerSettings
from pipeline.datasets.records import Pair
from pipeline.errors import CacheError, CheckpointError, DataError
from pipeline.execution.settings import EngineSettings
from pipeline.files import atomic_folder, write_json
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.training.checkpoints import ModelCard, captioner_of, load_model, model_folders, read_card
from pipeline.training.inference import Explainer, Sentence, describe, stored_batches
from pipeline.training.inputs import Inputs, open_inputs
from pipeline.training.region_inputs import EvidenceCaches, EvidencePaths, check_alike, open_evidence, read_evidence
from pipeline.training.stores import EvidenceStore, PairStore, open_store
from stages import paths
from stages.settings import CaptionSettings

PROVENANCE = "provenance.json"
EXPLANATION = ".explanation.h5"
_DIGITS = 4  # of scores in the files: fewer than what one machine's arithmetic may differ from another's


def run(
    settings: CaptionSettings,
    prepared: Path,
    scenes: Path,
    models: Path,
    output: Path,
    *,
    engine: EngineSettings,
    regions: Path = paths.REGIONS,
    matches: Path = paths.MATCHES,
    semantics: Path = paths.SEMANTICS,
    graph: Path = paths.GRAPH,
    explain: bool = False,
) -> Path:
    """Describe the pairs of a split with each trained seed.

    Args:
        settings: Split and search.
        prepared: Folder that `sagecc prepare` wrote.
        scenes: Cache that `sagecc scenes` wrote for it; not looked at where the models take none.
        models: Folder that `sagecc train` wrote, `seed-<n>` each.
        output: Folder to write, as a whole: `seed-<n>.json` in COCO's results format (a list of `image_id`, `caption`,
            `score`, and with several sentences per pair `n_best`), provenance.json, and with `explain`
            `seed-<n>.explanation.h5`.
        engine: Which device.
        regions: Cache that `sagecc regions` wrote; this and what follows is read where the models' fusion takes it.
        matches: Cache that `sagecc matches` wrote.
        semantics: Cache that `sagecc semantics` wrote.
        graph: Folder that `sagecc graph` wrote for the pairs that the models were trained on.
        explain: Also write where each model looked for each word of its best sentences; see
            `pipeline.training.inference.SCHEMA`.

    Returns:
        `output`.

    Raises:
        CheckpointError: There is no trained model, one is damaged, or some take scenes and some do not.
        DataError: The models were trained with another data set's vocabulary.
        CacheError: The scenes, or another cache that is read, are not those of the prepared pairs, or were made
            otherwise than the training's; or the graph is another one.
        OutputError: `output` cannot be written or holds other files.
        SettingsError: With `change: mass`, the no-change sentences of the models' data set are not known.
    """
    device = resolve_device(engine.device)
    folders = model_folders(models)
    cards = {folder: read_card(folder) for folder in folders}
    inputs = open_inputs(prepared, scenes if _take_scenes(cards, models) else None)
    for folder, card in cards.items():
        _check_vocabulary(card, inputs, folder, settings)
        _check_scenes(card, inputs, folder)
    evidence = _open_evidence(cards, EvidencePaths(regions, matches, semantics, graph), inputs)
    split, pairs, remarks = _choose_pairs(inputs, settings)
    for remark in remarks:
        say(remark)

    stores: dict[bool, PairStore] = {}
    with atomic_folder(output, replaces=_own_files(output)) as folder:
        for model in folders:
            trained = load_model(model, device)
            if trained.takes_images not in stores:
                source = inputs.images(pairs, paths.WORK / "images") if trained.takes_images else inputs.features(pairs)
                stores[trained.takes_images] = open_store(source, device)
            known = None
            if (taken := evidence[model]) is not None:
                known = EvidenceStore(read_evidence(taken, [pair.id for pair in pairs], places=explain), device)
            batches = stored_batches(stores[trained.takes_images], settings.batch_size, known)
            mass = settings.change_threshold if settings.change == "mass" else None
            watch = Explainer(trained) if explain else None
            described = describe(trained, batches, settings, mass=mass, watch=watch)
            found = [sentences for batch in described for sentences in batch]
            results = [_result(pair, sentences) for pair, sentences in zip(pairs, found, strict=True)]
            write_json(folder / f"{model.name}.json", results)
            if watch is not None:
                watch.write(folder / f"{model.name}{EXPLANATION}", [pair.id for pair in pairs], inputs.data, settings)
            say(f"{model.name}: {len(results)} pairs of the {split} split described")
        provenance = {
            "dataset": inputs.data.card.name,
            "pairs_sha256": inputs.data.card.pairs_sha256,
            "split": split,
            "pairs": len(pairs),
            "remarks": remarks,
            "models": {model.name: card.weights_sha256 for model, card in cards.items()},
            "settings": settings.model_dump(mode="json"),
        }
        write_json(folder / PROVENANCE, provenance)
    return output


def _choose_pairs(inputs: Inputs, settings: CaptionSettings) -> tuple[str, list[Pair], list[str]]:
    """Return the split that is described, its pairs that have scenes, and what the user should know about it."""
    remarks = []
    splits: list[Literal["train", "val", "test"]] = ["val", "train"]
    for split in dict.fromkeys([settings.split, *splits]):
        pairs = inputs.data.split(split)
        with_scenes = inputs.available(pairs)
        if with_scenes:
            if split != settings.split:
                remarks.append(f"the {settings.split} split has no pairs: the {split} split is described instead")
            if len(with_scenes) < len(pairs):
                remarks.append(f"{len(pairs) - len(with_scenes)} {split} pairs have no scenes and are not described")
            return split, with_scenes, remarks
    raise DataError("there is no pair to describe", where=inputs.data.folder, fix="run `sagecc prepare`")


def _check_vocabulary(card: ModelCard, inputs: Inputs, folder: Path, settings: CaptionSettings) -> None:

    if card.vocabulary_sha256 == inputs.vocabulary.sha256 or settings.allow_other_dataset:
        return
    here = inputs.data.card.name
    other = f"of the data set {card.dataset}" if card.dataset != here else "prepared with other settings or captions"
    raise DataError(
        f"the model's vocabulary is not that of the prepared data set {here}: it is one {other}",
        where=folder / "vocabulary.json",
        fix="run `sagecc train` on this data set, or set caption.allow_other_dataset: true to describe it anyway",
    )


def _take_scenes(cards: dict[Path, ModelCard], models: Path) -> bool:
    """Tell whether the models take scenes, all of them or none."""
    if len(answers := {card.scenes is not None for card in cards.values()}) > 1:
        raise CheckpointError("some of the models take scenes and some do not", where=models, fix="run `sagecc train`")
    return answers == {True}


def _check_scenes(card: ModelCard, inputs: Inputs, folder: Path) -> None:

    if card.scenes is None:
        return
    made, trained = inputs.provenance, card.scenes
    if (made.settings_hash, dict(made.weights)) == (trained.settings_hash, trained.weights):
        return
    keys = made.settings.keys() | trained.settings.keys()
    different = sorted(key for key in keys if made.settings.get(key) != trained.settings.get(key))
    what = f"other settings ({', '.join(different)})" if different else "other backbone weights"
    raise CacheError(
        f"the scenes were made with {what} than those that {folder.name} was trained on",
        where=inputs.scenes.path,
        fix=f"run `sagecc scenes` with the settings in {folder / 'settings.json'}, or `sagecc train` on these scenes",
    )


def _open_evidence(
    cards: dict[Path, ModelCard], where: EvidencePaths, inputs: Inputs
) -> dict[Path, EvidenceCaches | None]:
    """Open what each model takes beside the scenes, made as for its training."""
    opened: dict[CaptionerSettings, EvidenceCaches | None] = {}
    found = {}
    for folder, card in cards.items():
        captioner = captioner_of(card, folder)
        if captioner not in opened:
            opened[captioner] = open_evidence(captioner, where, inputs.data, training=False)
        caches = found[folder] = opened[captioner]
        if caches is None:
            continue
        if card.evidence is None:
            raise CheckpointError(
                f"the model has fusion: {captioner.fusion}, and its card does not say what it was trained on",
                where=folder / "settings.json",
                fix="run `sagecc train`",
            )
        same = card.pairs_sha256 == inputs.data.card.pairs_sha256
        check_alike(card.evidence, caches.card(), same_pairs=same, model=folder, where=where.by_stage())
    return found


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
