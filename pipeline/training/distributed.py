"""Training on one device or on several that Lightning Fabric joins, and the reasons for which a training ends early."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.optim import Optimizer

from pipeline import errors
from pipeline.errors import SageccError, ServiceError
from pipeline.execution.failures import device_errors


class Interrupted(SageccError):  # noqa: N818 - a request that was granted
    """The user stopped a run; its state is saved. The command line exits with `exit_code`."""

    exit_code = 130
    """128 + SIGINT, as shells expect."""


class DivergedError(SageccError):
    """The loss became NaN or infinite."""


class InterruptFlag:
    """While entered, the first SIGINT only sets `requested`; a second one interrupts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __call__(self) -> bool:
        """Tell whether the user asked to stop."""
        return self.requested

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread alone and lets no other install handlers.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


ResultT = TypeVar("ResultT")


class Ranks(Protocol):
    """The devices that share each step.

    Attributes:
        rank: Number of this process, from 0; 0 validates and writes.
        world: How many there are.
        device: Where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    def join(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """Return a module whose backward pass averages gradients over all devices."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        ...

    def any(self, flag: bool) -> bool:
        """Tell whether `flag` is set on any device; all must call it."""
        ...


class SingleProcess:
    """One device: nothing to agree on, and no package to load for it."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def join(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """See `Ranks.join`."""
        return model

    def backward(self, loss: Tensor) -> None:
        """See `Ranks.backward`."""
        loss.backward()

    def any(self, flag: bool) -> bool:
        """See `Ranks.any`."""
        return flag


class FabricProcess:
    """One of several processes under Lightning Fabric's distributed data parallelism."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank: int = fabric.global_rank
        self.world: int = fabric.world_size
        self.device: torch.device = fabric.device

    def join(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """See `Ranks.join`."""
        joined: nn.Module = self._fabric.setup(model, optimizer)[0]
        return joined

    def backward(self, loss: Tensor) -> None:
        """See `Ranks.backward`."""
        self._fabric.backward(loss)

    def any(self, flag: bool) -> bool:
        """See `Ranks.any`."""
        return bool(self._fabric.all_reduce(torch.tensor(float(flag), device=self.device), reduce_op="sum") > 0)


def count_devices(setting: int | Literal["auto"], device: torch.device) -> int:
    """Return how many devices of the kind of `device` to use; a CPU may be shared by several processes.

    Raises:
        ServiceError: There are fewer GPUs than asked for.
    """
    if device.type != "cuda":
        return 1 if setting == "auto" else setting
    available = torch.cuda.device_count()
    if setting == "auto":
        return available
    if setting > available:
        raise ServiceError(
            f"{setting} GPUs are asked for and there are {available}",
            where="train.devices",
            fix="set train.devices: auto",
        )
    return setting


_LESS_AT_ONCE = "lower train.batch_size, or set train.data to host or file"


def launch(work: Callable[[Ranks], ResultT], device: torch.device, devices: int) -> ResultT:
    """Run `work` on `devices` devices at once and return what rank 0 returned.

    Args:
        work: Picklable where there are several devices; called with the ranks.
        device: The device, or the kind of the several.
        devices: How many.

    Raises:
        SageccError: What `work` raised, on whichever device; ResourceError where memory ran out, ServiceError where a
            GPU failed.
    """
    if devices == 1:
        with device_errors("training", _LESS_AT_ONCE):
            return work(SingleProcess(device))
    from lightning.fabric import Fabric

    fabric: Any = Fabric(accelerator=device.type, devices=devices, strategy="ddp_spawn")
    # Ctrl-C reaches every process of the terminal: the workers agree on a step to stop at, this one waits for them.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with tempfile.TemporaryDirectory() as folder:
            try:
                result: ResultT = fabric.launch(_enter, work, Path(folder))
            except ProcessRaisedException:
                if error := _reported(Path(folder)):
                    raise error from None
                raise
    finally:
        signal.signal(signal.SIGINT, previous)
    return result


def _enter(fabric: Any, work: Callable[[Ranks], ResultT], folder: Path) -> ResultT:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(max(1, torch.get_num_threads() // fabric.world_size))
    try:
        with device_errors("training", _LESS_AT_ONCE):
            return work(FabricProcess(fabric))
    except errors.SageccError as error:
        # A spawned process hands back the text of its traceback only.
        report = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        (folder / f"{fabric.global_rank}.json").write_text(json.dumps(report))
        raise


def _reported(folder: Path) -> errors.SageccError | None:
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        own = {kind.__name__: kind for kind in (Interrupted, DivergedError)}
        kind = own.get(report["kind"]) or getattr(errors, report["kind"])
        error: errors.SageccError = kind(report["what"], where=report["where"], fix=report["fix"])
        return error
    return None
