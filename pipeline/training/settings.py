"""How a captioner is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from pipeline.captioners.registry import CAPTIONERS
from pipeline.captioners.settings import CaptionerSettings, SageCCSettings
from pipeline.config import Section, parse_section

Residency = Literal["device", "host", "file"]
"""Where the inputs of a training are kept."""
CaptionsPerPair = Literal["all", "one", "each"]
"""How the captions of a pair make samples: a pair with all of them or with one, or each caption with its pair."""
SelectionMetric = Literal["bleu_4", "cider_d", "val_loss"]


class TrainSettings(Section):
    """The captioner and its training; defaults follow the paper where it speaks."""

    name: str = Field(
        "baseline",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the model: the folder under artifacts/models and artifacts/captions",
    )
    seeds: tuple[int, ...] = Field(
        (1,),
        min_length=1,
        description="one model is trained per seed, one after the other (the paper and the release name none)",
    )
    epochs: int = Field(50, ge=1, le=10_000, description="passes over the training pairs (paper: at most 50)")
    batch_size: int = Field(
        32,
        ge=1,
        le=65_536,
        description="samples per step, over all devices together; see captions_per_pair (release: 32; the paper gives "
        "no number)",
    )
    captions_per_pair: CaptionsPerPair = Field(
        "all",
        description="what a sample is: a pair with all its captions (all: one encoder pass serves them), a pair with "
        "one of them, drawn anew in each epoch (one), or a caption with its pair (each, the release: with five "
        "captions a pair, five times as many steps an epoch)",
    )
    learning_rate: float = Field(1e-4, gt=0, le=1, description="of Adam, at the start (paper: 1e-4)")
    decay_every: int = Field(5, ge=1, description="epochs after which the learning rate falls (paper: 5)")
    decay_factor: float = Field(0.5, gt=0, le=1, description="what it is then multiplied by (paper: 0.5)")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="ε of equation (23), which the paper calls optional without giving a value"
    )
    gradient_clip: float = Field(
        1.0, ge=0, description="largest norm of the gradient; 0: no limit (the paper does not say)"
    )
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, taken after each step, which is validated and kept in "
        "the weights' place; 0.999 averages over some thousand steps; 0: none (paper)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the forward pass: auto is bf16 on a GPU and fp32 on a CPU; weights stay fp32"
    )
    select: SelectionMetric = Field(
        "bleu_4",
        description="which validation score decides the checkpoint that is kept: bleu_4 (paper), cider_d or val_loss",
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last epoch is always validated")
    validation_batch_size: int = Field(
        256,
        ge=1,
        le=65_536,
        description="pairs that are validated at a time, by their loss and by greedy search; fewer take less memory, "
        "more spare a GPU its pauses between words",
    )
    patience: int = Field(
        0, ge=0, description="stop after this many validations without improvement; 0: never (the paper does not stop)"
    )
    data: Literal["auto", "device", "host", "file"] = Field(
        "auto",
        description="where the training inputs lie: on the device, in host memory, or in the file, read step by step; "
        "auto takes the first in which they fit. Changes speed, not results",
    )
    finetune: bool = Field(
        False,
        description="train the scene backbone beyond its first layers as well, on images instead of cached features "
        "(release: yes, from layer2 on; paper: does not say)",
    )
    batch_norm: Literal["frozen", "trained", "all"] = Field(
        "trained",
        description="with finetune, which batch-normalisation statistics follow the data: frozen (none), trained "
        "(those of the trained layers), all (the release)",
    )
    devices: int | Literal["auto"] = Field(
        1,
        description="GPUs (or CPU processes) that share each step; auto: every GPU there is. More than one uses Fabric",
    )
    hold_out: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the training pairs, in evenly spread runs of neighbours, that is not learnt from and "
        "decides the checkpoint in the validation split's place; for where that split is what models are judged by",
    )
    overfit: int = Field(
        0, ge=0, description="for debugging: train on the first N pairs only and validate on the same; 0: off"
    )
    captioner: SerializeAsAny[CaptionerSettings] = SageCCSettings()

    @field_validator("captioner", mode="before")
    @classmethod
    def _of_its_kind(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        kind = values.get("kind", "sage-cc")
        return parse_section(values, "train.captioner", CAPTIONERS.resolve(str(kind)))

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("each seed may appear once")
        if not all(0 <= seed < 2**31 for seed in seeds):
            raise ValueError("a seed is a whole number from 0 to 2147483647")
        return seeds

    @field_validator("devices")
    @classmethod
    def _some(cls, devices: int | Literal["auto"]) -> int | Literal["auto"]:
        if devices != "auto" and devices < 1:
            raise ValueError("at least one device is needed")
        return devices

    @model_validator(mode="after")
    def _has_images_to_finetune(self) -> Self:
        if self.finetune and "scenes" not in self.captioner.input_names():
            raise ValueError("finetune trains the backbone of the scenes, and the captioner reads no scenes")
        return self

    def input_names(self) -> tuple[str, ...]:
        """Return the captioner's input sources; where the backbone is trained too, images in the place of scenes."""
        names = self.captioner.input_names()
        return tuple("images" if name == "scenes" and self.finetune else name for name in names)

    def resolved(self, device: str, devices: int) -> Self:
        """Return these settings with what `auto` means here, so that another machine does not take it for its own.

        Args:
            device: Kind of the device, cpu or cuda.
            devices: How many share each step.
        """
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if device == "cuda" else "fp32"
        return self.model_copy(update={"precision": precision, "devices": devices})

    def result_values(self) -> dict[str, object]:
        """Return the settings that decide what one seed's model becomes, as JSON values."""
        idle = {name for name in ("hold_out", "average") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude={"seeds", "data"} | idle)


class PretrainSchedule(Section):
    """How long, in what steps and from which seed a mini model is trained."""

    epochs: int = Field(8, ge=1, description="passes over the training pairs, a validation after each")
    batch_size: int = Field(12, ge=1, description="pairs per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's weight decay")
    start: str | None = Field(
        None, description="weights to begin with, as an earlier training of the same model wrote them; null: none"
    )
    seed: int = Field(0, ge=0, description="initial weights and order of the pairs")
