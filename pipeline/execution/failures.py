"""What an exception of a stage's work means: a bad item, too little memory, or a GPU that has failed.

Only the first is recorded and passed over; the other two end the run, since every further item would fail as well.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pipeline.errors import ResourceError, SageccError, ServiceError, first_line

_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|_STATUS_ALLOC_FAILED|can't allocate memory|not enough memory|can't start new thread", re.I
)
"""PyTorch's words: CUDA's caching allocator, its context, cuBLAS and cuDNN handles, and `DefaultCPUAllocator`."""
_UNMAPPED: Final = re.compile(r"failed to map segment|cannot allocate memory", re.IGNORECASE)
"""The dynamic linker's words where a library does not fit: under a limit of addresses, before any work begins."""
_DEVICE: Final = re.compile(
    r"CUDA (?:driver )?error|HIP error|NCCL error|device-side assert"
    r"|cuDNN error|CUDNN_STATUS_|CUBLAS_STATUS_|CUSOLVER_STATUS_|CUSPARSE_STATUS_|CUFFT_"
)
_GPU: Final = re.compile(r"CUDA|HIP|cuDNN|CUDNN_|CUBLAS_|CUSOLVER_|CUSPARSE_")


@dataclass(frozen=True)
class Failure:
    """Reason why an item has no result.

    Attributes:
        reason: The reason, for people.
        fix: What the item's own error says to do about it.
        unexpected: Whether the exception was no SageccError, so perhaps a fault of the program.
        trace: The traceback, where it was unexpected.
    """

    reason: str
    fix: str | None = None
    unexpected: bool = False
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Return the failure that an exception stands for."""
        if isinstance(error, SageccError):
            return cls(error.what + (f" ({error.where})" if error.where else ""), error.fix)
        return cls(
            f"{type(error).__name__}: {error}", unexpected=True, trace="".join(traceback.format_exception(error))
        )


def ran_out(error: BaseException) -> str | None:
    """Return which memory ran out, "the GPU's memory" or "memory"; None where the exception means something else.

    PyTorch raises OutOfMemoryError for its own allocator alone. A CUDA context, a cuBLAS or cuDNN handle and the
    allocator of the CPU raise RuntimeError, of which only the text tells.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "memory"
    if isinstance(error, ImportError | OSError) and _UNMAPPED.search(str(error)):
        return "memory"
    # Stages that do without PyTorch do not load it here: where it is not loaded, no GPU has failed.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory"
    if not isinstance(error, RuntimeError) or not _OUT_OF_MEMORY.search(str(error)):
        return None
    return "the GPU's memory" if _GPU.search(str(error)) else "memory"


def is_device_failure(error: BaseException) -> bool:
    """Tell whether an exception comes from a GPU or its libraries, too little memory excepted.

    After an illegal access or a failed assertion on the device, every further call on its context fails in the same way
    until the process ends.
    """
    if ran_out(error):
        return False
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and _DEVICE.search(str(error)) is not None


@contextmanager
def device_errors(doing: str, fix: str) -> Iterator[None]:
    """Turn exceptions within the block that no item is at fault for into the project's own.

    Args:
        doing: What the block does, for the message: "loading the models".
        fix: What to do where memory runs out.

    Raises:
        ResourceError: Memory ran out, the GPU's or the machine's.
        ServiceError: The GPU failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if memory := ran_out(error):
            where = "engine.device" if memory != "memory" else None
            raise ResourceError(f"{memory} ran out while {doing}", where=where, fix=fix) from error
        if is_device_failure(error):
            raise ServiceError(
                f"the GPU failed while {doing}: {first_line(error)}",
                where="engine.device",
                fix="run the same command again, which goes on from what is finished (on a Dask cluster restart its "
                "workers first); where it fails again, set engine.device to cpu, or CUDA_LAUNCH_BLOCKING=1 in the "
                "environment to see where",
            ) from error
        raise
