"""What the local engine's worker processes load first (a Dask preload module)."""

from __future__ import annotations

import signal


def dask_setup(_: object) -> None:
    """Leave Ctrl-C to the main process, which ends its workers itself; otherwise each would print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
