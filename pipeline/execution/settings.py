"""Settings of the execution engine: where stages run, with how many workers, on what device."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import Section


class EngineSettings(Section):
    """How stages run. Nothing here is part of a cache's settings.

    The engine and the number of workers change no bit of a result. The device changes the last bits of floating-point
    numbers, and with `train.precision: auto` the arithmetic of a training, which is therefore in the training's key.
    """

    engine: str = Field(
        "inline",
        description="inline (this process), local (Dask worker processes here), or a running scheduler's address "
        "(tcp://host:port)",
    )
    workers: int = Field(
        0,
        ge=0,
        description="worker processes of the local engine; 0: one per GPU where the stage computes on GPUs, else one "
        "per CPU core. More workers than GPUs share them in turn",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one")
    on_bad_item: Literal["fatal", "skip"] = Field(
        "fatal",
        description="an item that fails: fatal (after all others are done) or skip (left empty, listed beside the "
        "cache)",
    )

    @field_validator("engine")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in ("inline", "local") or value.startswith(("tcp://", "tls://", "ucx://", "ws://", "wss://")):
            return value
        raise ValueError("must be inline, local or the address of a Dask scheduler (tcp://host:port)")
