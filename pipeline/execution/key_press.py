"""A key press (Ctrl-C) that is not lost, wherever it arrives."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def remembered_key_press() -> Iterator[Callable[[], None]]:
    """Let a key press interrupt as ever, and remember it.

    Python raises KeyboardInterrupt wherever the main thread happens to be; inside a finaliser, of which Dask's futures
    have many, it is printed and forgotten.

    Yields:
        What to call now and then: it raises KeyboardInterrupt if a key press came earlier.
    """
    pressed = threading.Event()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        raise KeyboardInterrupt

    # Only the main thread may say what signals do, and whoever has said so already is left alone.
    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if mine:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
