"""The training loop: epochs of steps, a validation after each, the best weights kept, and no step lost to a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from pipeline.training.averaging import WeightAverage
from pipeline.training.determinism import deterministic
from pipeline.training.feed import Feed
from pipeline.training.model import PairCaptioner
from pipeline.training.ranks import Ranks
from pipeline.training.schedule import learning_rate, plan_epoch, step_seed
from pipeline.training.settings import TrainSettings
from pipeline.training.state import Progress, load_state, save_state
from pipeline.training.stops import DivergedError, Interrupted
from pipeline.training.validation import DIGITS, Validator, improves

_SAVE_SHARE = 0.05  # of the time may go into saving
_LOOK_EVERY = 16  # steps between looks at what it costs a GPU, or several, to look at


@dataclass
class Speed:
    """How fast the steps went; kept out of every file, which would otherwise differ from run to run.

    Attributes:
        pairs: Pairs trained on.
        seconds: Time spent in the steps, validation not counted.
        waited: Part of it in which a step waited for its batch.
    """

    pairs: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second of training."""
        return self.pairs / self.seconds if self.seconds else 0.0

    @property
    def data_wait_share(self) -> float:
        """Share of the steps' time spent waiting for data."""
        return self.waited / self.seconds if self.seconds else 0.0


Observer = Callable[[dict[str, Any], Speed], None]
"""Called with each finished epoch's record; once more with those of an earlier, interrupted run."""


@dataclass
class Loop:
    """One model's training.

    Attributes:
        model: What is trained, on the device, with initial weights.
        settings: Epochs, rates, selection.
        seed: Decides the order of the pairs, the drawn captions and dropout.
        feed: Inputs and captions of the training pairs.
        validator: Scores the model.
        state: File of the unfinished training's state.
        ranks: The devices that share each step.
        stop: Asked after each step; True saves the state and ends the run.
        observe: Called after each epoch, on rank 0.
        tick: Called with the number of steps done since the last call, those of an earlier run among them.
        save_every: Seconds between savings of the state within a run.
        speed: How fast it went, so far.
    """

    model: PairCaptioner
    settings: TrainSettings
    seed: int
    feed: Feed
    validator: Validator
    state: Path
    ranks: Ranks
    stop: Callable[[], bool]
    observe: Observer = lambda record, speed: None
    tick: Callable[[int], None] = lambda steps: None
    save_every: float = 20.0
    speed: Speed = field(default_factory=Speed)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return -(-len(self.feed.captions) // self.settings.batch)

    def run(self) -> Progress:
        """Train to the end, from where an earlier run stopped; the model then has the best weights.

        Raises:
            Interrupted: `stop` said so; the state is saved.
            DivergedError: The loss became NaN or infinite; the last good state is kept.
            CheckpointError: The saved state is damaged or belongs to another model.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(parameters, lr=self.settings.learning_rate, fused=True)
        self._joined = self.ranks.join(self.model, self._optimizer)
        self._progress, self._best = Progress(), dict[str, Tensor]()
        self._average = WeightAverage(self.settings.average)
        if self.state.is_file():
            self._progress, self._best, self._average.values = load_state(self.state, self.model, self._optimizer)
        for record in self._progress.history:
            self.observe(record, self.speed)
        self.tick(self._progress.epoch * self.steps_per_epoch + self._progress.step)
        self._save_at = time.monotonic() + self.save_every
        with deterministic(self.ranks.device):
            while not self._progress.finished:
                self._learn()
                self._judge()
        if self._best:
            self.model.load_state_dict(self._best)
        return self._progress

    def _learn(self) -> None:
        """Do the steps of the present epoch that are left."""
        progress, settings = self._progress, self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        plan = plan_epoch(
            self.feed.captions,
            batch=settings.batch,
            one_caption=settings.captions_per_pair == "one",
            seed=self.seed,
            epoch=progress.epoch,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        loss_sum = torch.tensor(progress.loss, dtype=torch.float64, device=self.ranks.device)
        self.model.train()
        waited_before, start = self.feed.waited, time.perf_counter()
        for batch in self.feed.batches(plan[progress.step :]):
            torch.manual_seed(step_seed(self.seed, progress.epoch, progress.step, self.ranks.rank))
            loss = self._joined(batch.inputs, batch.tokens, batch.owners, batch.evidence)
            self._optimizer.zero_grad()
            self.ranks.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip or math.inf)
            self._optimizer.step()
            if self.ranks.rank == 0:
                self._average.update(self.model, progress.epoch * self.steps_per_epoch + progress.step)
            # A gradient that is not finite spoils the weights, so it spoils the sum as well.
            loss_sum += torch.where(norm.isfinite(), loss.detach(), torch.nan)
            progress.step += 1
            self.speed.pairs += len(batch.inputs) * self.ranks.world
            self.tick(1)
            self._look(loss_sum)
        progress.loss = self._finite(loss_sum.item())
        self.speed.seconds += time.perf_counter() - start
        self.speed.waited += self.feed.waited - waited_before

    def _look(self, loss_sum: Tensor) -> None:
        """Between steps: stop if asked to, save if it is time."""
        free = self.ranks.world == 1 and self.ranks.device.type == "cpu"
        if not free and self._progress.step % _LOOK_EVERY:
            return
        stopping = self.ranks.any(self.stop())
        if stopping or time.monotonic() >= self._save_at or free:
            self._progress.loss = self._finite(loss_sum.item())
        if stopping:
            self._pause()
        if time.monotonic() >= self._save_at:
            self._save()

    def _judge(self) -> None:
        """Validate the finished epoch where it is due, keep the weights if they are the best, go on to the next."""
        progress, settings = self._progress, self.settings
        number = progress.epoch + 1
        steps = progress.step
        record = {"epoch": number, "learning_rate": self._rate(), "loss": round(progress.loss / steps, DIGITS)}
        if number % settings.validate_every == 0 or number == settings.epochs:
            scores = self._validate() if self.ranks.rank == 0 else {}
            if self.ranks.any(scores is None):
                self._pause()
            if scores:
                self._finite(scores["val_loss"])
                record |= scores
                self._keep_if_best(scores)
        progress.history.append(record)
        progress.epoch, progress.step, progress.loss = number, 0, 0.0
        patient = settings.patience == 0 or progress.stale < settings.patience
        progress.finished = self.ranks.any(number == settings.epochs or not patient)
        if progress.finished or time.monotonic() >= self._save_at:
            self._save()
        if self.ranks.rank == 0:
            self.observe(record, self.speed)

    def _validate(self) -> dict[str, float] | None:
        with self._average.applied_to(self.model):
            return self.validator(self.model, self.stop)

    def _keep_if_best(self, scores: dict[str, float]) -> None:
        progress = self._progress
        if improves(self.settings.select, scores, progress.best):
            progress.best, progress.best_epoch, progress.stale = scores, progress.epoch + 1, 0
            weights = self._average.values or self.model.state_dict()
            self._best = {name: tensor.detach().clone() for name, tensor in weights.items()}
        else:
            progress.stale += 1

    def _rate(self) -> float:
        settings = self.settings
        return learning_rate(
            settings.learning_rate, self._progress.epoch, every=settings.decay_every, factor=settings.decay_factor
        )

    def _save(self) -> None:
        if self.ranks.rank == 0:
            start = time.monotonic()
            save_state(self.state, self._progress, self.model, self._optimizer, self._best, self._average.values)
            now = time.monotonic()
            self._save_at = now + max(self.save_every, (now - start) / _SAVE_SHARE)

    def _pause(self) -> NoReturn:
        self._save()
        # The first process to leave ends the others: none leaves before the state is on the disk.
        self.ranks.any(True)
        raise Interrupted(
            f"training of seed {self.seed} was interrupted in epoch {self._progress.epoch + 1} of "
            f"{self.settings.epochs}; its state is saved",
            where=self.state,
            fix="run the same command again: it goes on from here",
        )

    def _finite(self, value: float) -> float:
        if math.isfinite(value):
            return value
        kept = f"the last good state is kept in {self.state}" if self.state.is_file() else "no state was saved yet"
        raise DivergedError(
            f"the loss is no longer a number in epoch {self._progress.epoch + 1} of seed {self.seed}; {kept}",
            where="train",
            fix="lower train.learning_rate, set train.gradient_clip to 1 or less, or set train.precision: fp32",
        )
