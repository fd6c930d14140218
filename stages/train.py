"""Stage `train`: the captioner, once per seed, from the cached inputs (equations 1–6 and 17–23)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.execution.build import exclusive
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from pipeline.progress import say
from pipeline.runtime import resolve_device
from pipeline.training.checkpoints import copy_model, is_complete, read_epochs, remove_other_seeds
from pipeline.training.distributed import count_devices, launch
from pipeline.training.inputs import SOURCES, Inputs, open_inputs
from pipeline.training.run import STATE, Job, choose_pairs, seed_key, train_seeds, training_key, write_curves
from pipeline.training.settings import TrainSettings
from stages.code import stage_digest


def run(settings: TrainSettings, paths: Paths, *, engine: EngineSettings) -> Path:
    """Train the captioner with each seed in turn; finished seeds are not trained again.

    Args:
        settings: The captioner and its training.
        paths: The prepared data set and the caches that the captioner reads; writes `models`, `seed-<n>` each
            (model.safetensors, settings.json, vocabulary.json, history.json), and `curves`.
        engine: Which device.

    Returns:
        `paths.models`.

    Raises:
        CacheError: A cache that is read is missing, damaged, not of the prepared pairs or of another cache, lacks a
            pair, or holds NaN.
        DataError: The prepared data set is missing or damaged, or no training pair has a caption.
        CheckpointError: With finetune, the backbone's weights are missing or not those of the scenes; or the pretrained
            graph encoder is missing or that of another graph.
        SettingsError: The captioner reads an input that no source provides, or its settings do not fit one.
        Interrupted: The user stopped it; the state is saved and the same call goes on from there.
        DivergedError: The loss became NaN or infinite.
        OutputError: A file cannot be written, or the inputs do not fit where `data` wants them.
    """
    chosen, settings = settings, resolved(settings, engine)
    device = resolve_device(engine.device)
    inputs = open_inputs(paths, settings.captioner, settings.input_names(), training=True)
    choose_pairs(inputs, settings)
    key = key_of(settings, inputs)
    work = paths.training(key)
    pending = []
    for seed in settings.seeds:
        model, copy = paths.models / f"seed-{seed}", work / f"seed-{seed}" / "model"
        if not is_complete(model, seed_key(key, seed)):
            if not is_complete(copy, seed_key(key, seed)):
                pending.append(seed)
                continue
            # DVC empties the output before a stage runs; finished models are kept in the work folder too.
            copy_model(copy, model)
        say(f"seed {seed}: trained already")
        write_curves(paths.curves / f"seed-{seed}", read_epochs(model))
    if pending:
        _tell_of_other_precision(chosen, settings, inputs, paths, pending)
        job = Job(settings, pending, inputs, key, work, paths.models, paths.curves)
        with exclusive(work):
            launch(partial(train_seeds, job), device, int(settings.devices))
    remove_other_seeds(paths.models, settings.seeds)
    return paths.models


def resolved(settings: TrainSettings, engine: EngineSettings) -> TrainSettings:
    """Return the settings with what `auto` means on this machine: the precision, and how many devices share a step.

    Raises:
        ServiceError: There is no GPU, or there are fewer than asked for.
    """
    device = resolve_device(engine.device)
    return settings.resolved(device.type, count_devices(settings.devices, device))


def _tell_of_other_precision(
    chosen: TrainSettings, settings: TrainSettings, inputs: Inputs, paths: Paths, seeds: Sequence[int]
) -> None:
    """Say which of the seeds' trainings lie here in another precision, where the user did not choose one."""
    if chosen.precision != "auto":
        return
    other = settings.model_copy(update={"precision": "fp32" if settings.precision == "bf16" else "bf16"})
    key = key_of(other, inputs)
    for seed in seeds:
        name = f"seed-{seed}"
        begun = any((paths.training(key) / name / file).exists() for file in (STATE, "model"))
        if begun or is_complete(paths.models / name, seed_key(key, seed)):
            say(
                f"seed {seed}: there is a training in {other.precision}; this one begins anew in {settings.precision}, "
                f"which train.precision: auto is on this device. To go on with the other set train.precision to "
                f"{other.precision}"
            )


def key_of(settings: TrainSettings, inputs: Inputs) -> str:
    """Return the content key of a training with resolved settings, the code that computes it included."""
    modules = (settings.captioner.captioner, *(SOURCES[name] for name in inputs.sources))
    return training_key(settings, inputs, stage_digest("train", *modules))
