"""The training loop: epochs of steps, a validation after each, the best weights kept, and no step lost to a kill.

Before it stand what it uses: a running average of the weights, and the scores of a model on its validation pairs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pipeline.captioners.settings import GenerationSettings
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.evaluation.reference_scorer import ReferenceScorer
from pipeline.runtime import deterministic
from pipeline.training.batches import BatchLoader, Step, learning_rate, plan_epoch, samples_of, step_seed
from pipeline.training.checkpoints import Progress, load_state, save_state
from pipeline.training.distributed import DivergedError, Interrupted, Ranks
from pipeline.training.model import PairCaptioner
from pipeline.training.settings import SelectionMetric, TrainSettings


class WeightAverage:
    """Running average of weights: ā ← d ā + (1 − d) w after every step n, d = min(decay, (1 + n) / (10 + n)).

    Polyak & Juditsky (1992), in the exponential form, with a shorter memory at the start. `torch.optim.swa_utils` keeps
    a second module; this keeps tensors by name, which go into the training state as they are.

    Statistics of batch norms are averaged like weights; integers are copied.

    Args:
        decay: 0 keeps no average.

    Attributes:
        values: The average by name; empty without one, or before the first step.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after step `step`, counted from 0 over the whole training, into the average."""
        if not self.decay:
            return
        state = model.state_dict()
        if not self.values:
            self.values = {name: tensor.detach().clone() for name, tensor in state.items()}
            return
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.values[name] for name in floating], [state[name] for name in floating], share)
        for name in state.keys() - set(floating):
            self.values[name].copy_(state[name])

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the average, if there is one, while the block runs; afterwards it has its own weights again."""
        if not self.values:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.values)
        try:
            yield
        finally:
            model.load_state_dict(own)


DIGITS = 6
"""Decimals of scores and losses in files."""


def improves(metric: SelectionMetric, scores: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Tell whether `scores` are better than `best` by `metric`, and where that is equal by the validation loss.

    On few pairs BLEU-4 is often 0, or stays at its best, while the loss still tells better weights from worse.
    """
    if best is None:
        return True
    if metric != "val_loss" and scores[metric] != best[metric]:
        return scores[metric] > best[metric]
    return scores["val_loss"] < best["val_loss"]


@dataclass(frozen=True)
class Validator:
    """Scores a model on fixed pairs.

    Attributes:
        loader: Their inputs and captions.
        steps: One pass over them, in order.
        references: The tokenized captions of each pair, words joined by spaces, by its id in the order of `steps`.
        vocabulary: Turns generated ids into words.
        metric: The score that selects; the scores of generated captions are computed only where it is one of them.
    """

    loader: BatchLoader
    steps: Sequence[Step]
    references: Mapping[str, Sequence[str]]
    vocabulary: Vocabulary
    metric: SelectionMetric

    @torch.inference_mode()
    def __call__(self, model: PairCaptioner, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return `val_loss` (nats per word) and, unless it selects, `bleu_4` and `cider_d` (times 100).

        METEOR, and with it S*m, needs Java and seconds to start: the stage `evaluate` computes it.

        Args:
            model: Is switched to evaluation mode.
            stop: Asked between batches; True ends the validation.

        Returns:
            The scores by name, or None when stopped.
        """
        model.eval()
        greedy = GenerationSettings(beams=1, max_length=self.vocabulary.settings.max_length)
        total, words, captions = 0.0, 0, []
        for batch in self.loader.batches(self.steps):
            if stop():
                return None
            memory = model.encode(batch.inputs)
            count = int((batch.tokens[:, 1:] != 0).sum())
            total += float(model.loss(memory, batch.tokens, batch.owners)) * count
            words += count
            if self.metric != "val_loss":
                captions += [
                    " ".join(self.vocabulary.words_of(best.tokens)) for best, *_ in model.generate(memory, greedy)
                ]
        scores = {"val_loss": round(total / words, DIGITS)}
        if self.metric != "val_loss":
            bleu_4, cider_d = self._scorer.score(captions)
            scores |= {"bleu_4": round(bleu_4, DIGITS), "cider_d": round(cider_d, DIGITS)}
        return scores

    @cached_property
    def _scorer(self) -> ReferenceScorer:
        return ReferenceScorer(list(self.references.values()))


_SAVE_SHARE = 0.05  # of the time may go into saving
_LOOK_EVERY = 16  # steps between checks that make a GPU, or several, wait for the host


@dataclass
class Speed:
    """How fast the steps went; kept out of every file, which would otherwise differ from run to run.

    Attributes:
        pairs: Pairs trained on, as often as they were encoded.
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
        seed: Decides the order of the samples, the drawn captions and dropout.
        loader: Inputs and captions of the training pairs.
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
    loader: BatchLoader
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
        samples = samples_of(self.loader.captions, self.settings.captions_per_pair)
        return -(-samples // self.settings.batch_size)

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
            self.loader.captions,
            batch_size=settings.batch_size,
            captions_per_pair=settings.captions_per_pair,
            seed=self.seed,
            epoch=progress.epoch,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        loss_sum = torch.tensor(progress.loss, dtype=torch.float64, device=self.ranks.device)
        self.model.train()
        waited_before, start = self.loader.waited, time.perf_counter()
        for batch in self.loader.batches(plan[progress.step :]):
            torch.manual_seed(step_seed(self.seed, progress.epoch, progress.step, self.ranks.rank))
            loss = self._joined(batch.inputs, batch.tokens, batch.owners)
            self._optimizer.zero_grad()
            self.ranks.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.gradient_clip or math.inf)
            self._optimizer.step()
            if self.ranks.rank == 0:
                self._average.update(self.model, progress.epoch * self.steps_per_epoch + progress.step)
            # A gradient that is not finite spoils the weights, so it spoils the sum as well.
            loss_sum += torch.where(norm.isfinite(), loss.detach(), torch.nan)
            progress.step += 1
            self.speed.pairs += batch.pairs * self.ranks.world
            self.tick(1)
            self._look(loss_sum)
        progress.loss = self._finite(loss_sum.item())
        self.speed.seconds += time.perf_counter() - start
        self.speed.waited += self.loader.waited - waited_before

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
        state = f"the last good state is kept in {self.state}" if self.state.is_file() else "no state was saved yet"
        raise DivergedError(
            f"the loss is no longer a number in epoch {self._progress.epoch + 1} of seed {self.seed}; {state}",
            where="train",
            fix="lower train.learning_rate, set train.gradient_clip to 1 or less, or set train.precision: fp32",
        )
