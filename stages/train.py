"""Stage `train`: the captioner, once per seed, from the cached scenes (equations 1–6 and 18–23)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.execution.build import exclusive
from pipeline.execution.settings import EngineSettings
from pipeline.files import read_json
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.training.checkpoints import HISTORY, copy_model, is_complete, remove_other_seeds
from pipeline.training.distributed import count_devices, launch
from pipeline.training.inputs import open_inputs
from pipeline.training.region_inputs import EvidencePaths, open_evidence
from pipeline.training.run import Job, choose_pairs, seed_key, train_seeds, training_key, write_curves
from pipeline.training.settings import TrainSettings
from stages import paths

__all__ = ["TrainSettings", "run"]


def run(
    settings: TrainSettings,
    prepared: Path,
    scenes: Path,
    output: Path,
    *,
    engine: EngineSettings,
    curves: Path | None = None,
    regions: Path = paths.REGIONS,
    matches: Path = paths.MATCHES,
    semantics: Path = paths.SEMANTICS,
    graph: Path = paths.GRAPH,
) -> Path:
    """Train the captioner with each seed in turn; finished seeds are not trained again.

    Args:
        settings: The captioner and its training.
        prepared: Folder that `sagecc prepare` wrote.
        scenes: Cache that `sagecc scenes` wrote for it; not looked at with `captioner.scene.features: none`.
        output: Folder of the models, `seed-<n>` each: model.safetensors, settings.json, vocabulary.json, history.json.
        engine: Which device.
        curves: Folder for DVCLive's training curves, `seed-<n>` each; None for none.
        regions: Cache that `sagecc regions` wrote; this and what follows is read where the captioner's fusion takes it.
        matches: Cache that `sagecc matches` wrote.
        semantics: Cache that `sagecc semantics` wrote.
        graph: Folder that `sagecc graph` wrote.

    Returns:
        `output`.

    Raises:
        CacheError: The scenes, or another cache that is read, are missing, damaged, not those of the prepared pairs or
            of each other, lack a pair, or hold NaN.
        DataError: The prepared data set is missing or damaged, or no training pair has a caption.
        CheckpointError: With finetune, the backbone's weights are missing or not those of the scenes; or the pretrained
            graph encoder is missing or that of another graph.
        SettingsError: The pretrained graph encoder is built otherwise than the captioner's.
        Interrupted: The user stopped it; the state is saved and the same call goes on from there.
        DivergedError: The loss became NaN or infinite.
        OutputError: A file cannot be written, or the inputs do not fit where `data` wants them.
    """
    device = resolve_device(engine.device)
    devices = count_devices(settings.devices, device)
    taken = scenes if settings.captioner.scene.features == "cached" else None
    inputs = open_inputs(prepared, taken)
    choose_pairs(inputs, settings)
    where = EvidencePaths(regions, matches, semantics, graph)
    evidence = open_evidence(settings.captioner, where, inputs.data, training=True)
    key = training_key(settings, inputs, evidence)
    work = paths.training(key)
    pending = []
    for seed in settings.seeds:
        model, kept = output / f"seed-{seed}", work / f"seed-{seed}" / "model"
        if not is_complete(model, seed_key(key, seed)):
            if not is_complete(kept, seed_key(key, seed)):
                pending.append(seed)
                continue
            # DVC empties the output before a stage runs; what was finished lies in the work folder too.
            copy_model(kept, model)
        say(f"seed {seed}: trained already")
        if curves is not None:
            write_curves(curves / f"seed-{seed}", read_json(model / HISTORY)["epochs"])
    if pending:
        job = Job(settings, pending, prepared, taken, work, paths.WORK / "images", output, curves, evidence)
        with exclusive(work):
            launch(partial(train_seeds, job), device, devices)
    remove_other_seeds(output, settings.seeds)
    return output
