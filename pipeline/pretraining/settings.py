"""Settings that the trainings of all mini models share."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Section


class PretrainSchedule(Section):
    """How long, in what steps and from which seed a mini model is trained."""

    epochs: int = Field(8, ge=1, description="passes over the training pairs, a validation after each")
    batch: int = Field(12, ge=1, description="pairs per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule of AdamW")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's weight decay")
    start: str | None = Field(
        None, description="weights to begin with, as an earlier training of the same model wrote them; null: none"
    )
    seed: int = Field(0, ge=0, description="initial weights and order of the pairs")
