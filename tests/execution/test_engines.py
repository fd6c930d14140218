from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import CheckpointError, DataError, ServiceError
from pipeline.execution import compute, engines
from pipeline.execution.engines import deferred_interrupt
from pipeline.files import sha256_file
from tests.execution import squares_stage
from tests.execution.resuming import run_items
from tests.execution.workers import Refuses, Squares, engine, item, items


def test_a_key_press_that_was_swallowed_is_remembered() -> None:
    with deferred_interrupt() as check:
        check()
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
        with pytest.raises(KeyboardInterrupt):
            check()


def test_the_handler_is_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_another_handler_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interrupt() as check:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            check()
    finally:
        signal.signal(signal.SIGINT, before)


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    ) as running:
        yield running


def test_all_engines_give_the_same_bits(tmp_path: Path, cluster: Any) -> None:
    todo = items(40)
    stores = [
        run_items(todo, Squares, work=tmp_path / str(index), engine=engine(name), group=6)
        for index, name in enumerate(["inline", "local", cluster.scheduler_address])
    ]
    for one in todo:
        first, *others = [store.read(one.key) for store in stores]
        assert all(first[name].tobytes() == other[name].tobytes() for other in others for name in first)


def test_model_is_built_once_per_process_and_run(tmp_path: Path, cluster: Any) -> None:
    log = tmp_path / "log"
    for run in range(2):
        make = partial(Squares, log, seconds=0.02)
        run_items(items(40), make, work=tmp_path / str(run), engine=engine(cluster.scheduler_address), group=4)
    built = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("built")]
    assert len(built) <= 2 * 2
    assert str(os.getpid()) not in log.read_text(encoding="utf-8")


def test_nothing_to_do_needs_no_scheduler(tmp_path: Path) -> None:
    run_items(items(6), Squares, work=tmp_path, engine=engine())
    run_items(items(6), Refuses, work=tmp_path, engine=engine("tcp://127.0.0.1:1"))


def test_a_lost_worker_costs_its_unfinished_shard_only(tmp_path: Path, cluster: Any) -> None:
    log, marker = tmp_path / "log", tmp_path / "once"
    todo = [*items(30), item([99.0], "deadly once")]
    make = partial(Squares, log, batch_size=1, dies=str(marker))
    store = run_items(todo, make, work=tmp_path / "work", engine=engine(cluster.scheduler_address), group=5)
    assert marker.exists()
    assert all(one.key in store for one in todo)
    computed = log.read_text(encoding="utf-8").count("computed")
    # Beyond one computation per item: the shard under way. Its last item is the deadly one.
    assert computed <= len({one.key for one in todo}) + 5 - 1


def test_what_a_lost_worker_has_written_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_SHARD_BYTES", 20)  # several shards a group
    monkeypatch.setattr(engines, "_workers", {})
    todo, log = [*items(6)[1:4], item([-1.0], "bad"), *items(12)[9:12]], tmp_path / "log"
    first = engines.compute_group(partial(Squares, log, batch_size=1), todo, str(tmp_path), "a run")
    assert sum(finished.shard is not None for finished in first) > 2
    last = [finished.shard for finished in first if finished.shard is not None][-1]
    (tmp_path / last).unlink()
    lost = next(finished for finished in first if finished.shard == last)
    log.unlink()
    again = engines.compute_group(partial(Squares, log, batch_size=1), todo, str(tmp_path), "a run")
    assert log.read_text(encoding="utf-8").count("computed") == len(lost.keys)
    assert {key for finished in again for key in finished.keys} == {one.key for one in todo if one.label != "bad"}
    assert [key for finished in again for key in finished.failures] == [todo[3].key]
    # Nothing is left to do, so no worker is built.
    good = [one for one in todo if one.label != "bad"]
    written = engines.compute_group(partial(Squares, batch_size=1), good, str(tmp_path), "a run")
    outcomes = engines.compute_group(Refuses, good, str(tmp_path), "another run")
    assert sorted(outcomes, key=_shard) == sorted(written, key=_shard)


def _shard(finished: compute.Finished) -> str:
    return finished.shard or ""


def test_an_item_that_kills_every_worker_is_a_bad_item(tmp_path: Path) -> None:
    import dask

    todo = [*items(6), item([99.0], "deadly always")]
    make = partial(Squares, batch_size=1, dies=str(tmp_path / "always"))
    # One death is enough here; by default it takes four.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(DataError, match="deadly always: its worker process died"),
    ):
        run_items(todo, make, work=tmp_path / "work", engine=engine("local"), group=4)
    run_items(items(6), Refuses, work=tmp_path / "work", engine=engine())


@pytest.mark.parametrize("policy", ["fatal", "skip"])
def test_bad_items_of_worker_processes_are_gathered(tmp_path: Path, cluster: Any, policy: str) -> None:
    todo = [item([-1.0], "bad"), *items(10), item([13.0], "worse")]
    run = partial(
        run_items,
        todo,
        Squares,
        work=tmp_path,
        engine=engine(cluster.scheduler_address, on_bad_item=policy),
        group=4,
    )
    if policy == "fatal":
        with pytest.raises(DataError, match="2 of"):
            run()
    else:
        reasons = sorted(failure.reason for failure in run().failures.values())
        assert reasons == ["ZeroDivisionError: thirteen", "negative (a number)"]
    run_items(items(10), Refuses, work=tmp_path, engine=engine())


def fails() -> Squares:
    raise CheckpointError("no weights", where="weights.pt", fix="fetch them")


def test_errors_of_building_a_worker_cross_processes(tmp_path: Path, cluster: Any) -> None:
    with pytest.raises(CheckpointError, match="no weights") as caught:
        run_items(items(4), fails, work=tmp_path, engine=engine(cluster.scheduler_address))
    assert caught.value.fix == "fetch them"


def test_no_scheduler_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_CONNECT_SECONDS", 1)
    with pytest.raises(ServiceError, match="no Dask scheduler answers"):
        run_items(items(4), Squares, work=tmp_path, engine=engine("tcp://127.0.0.1:1"))


def test_a_scheduler_without_workers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(engines, "_WORKER_SECONDS", 0.2)
    with (
        LocalCluster(
            n_workers=0, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as empty,
        pytest.raises(ServiceError, match="no workers"),
    ):
        run_items(items(4), Squares, work=tmp_path, engine=engine(empty.scheduler_address))


@pytest.mark.usefixtures("torch_state")
def test_a_lost_scheduler_is_an_error_that_keeps_the_shards(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as passing:

        def close() -> None:
            while not list(tmp_path.glob("*.safetensors")):
                time.sleep(0.01)
            passing.close()

        closing = threading.Thread(target=close)
        closing.start()
        with pytest.raises(ServiceError, match="scheduler was lost"):
            run_items(
                items(40),
                partial(Squares, seconds=0.2),
                work=tmp_path,
                engine=engine(passing.scheduler_address),
                group=4,
            )
        closing.join()
    assert list(tmp_path.glob("*.safetensors"))


@pytest.mark.long
def test_a_key_press_ends_the_local_engine_and_keeps_its_shards(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.execution.squares_stage", str(tmp_path), "local", "0.2"],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".work/*/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode != 0
    assert said.count("Traceback") == 1
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert list(tmp_path.glob(".work/*/*/*.safetensors"))
    assert not list(tmp_path.glob("*.h5"))
    with pytest.raises(ProcessLookupError):
        _wait_for_group(process.pid)


@pytest.mark.long
def test_a_parent_that_is_ended_leaves_no_worker_behind_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """SIGTERM reaches the parent alone, as from a batch system or `kill`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.execution.squares_stage", str(tmp_path), "local", "0.2"],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".work/*/*/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    process.wait(timeout=30)
    with pytest.raises(ProcessLookupError):
        _wait_for_group(process.pid, seconds=60)
    before = (tmp_path / "log").read_text(encoding="utf-8").count("computed")
    whole = squares_stage.run(tmp_path / "whole", seconds=0)
    assert sha256_file(squares_stage.run(tmp_path, seconds=0)) == sha256_file(whole)
    after = (tmp_path / "log").read_text(encoding="utf-8").count("computed") - before
    # What was finished before is not computed again.
    assert after < (tmp_path / "whole" / "log").read_text(encoding="utf-8").count("computed")


def _wait_for_group(group: int, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        os.killpg(group, 0)
        time.sleep(0.05)


@pytest.fixture
def torch_state() -> Iterator[None]:
    """Leave PyTorch as it was, for tests whose worker runs in this process."""
    import torch

    state = torch.get_num_threads(), torch.backends.cudnn.deterministic
    yield
    torch.set_num_threads(state[0])
    torch.backends.cudnn.deterministic = state[1]


@pytest.mark.usefixtures("torch_state")
def test_arithmetic_is_fixed_within_and_restored_after(tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(2)
    torch.backends.cudnn.deterministic = False
    seen = []

    class Looks(Squares):
        def compute(self, loaded: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
            seen.append((torch.get_num_threads(), torch.backends.cudnn.deterministic))
            return super().compute(loaded)

    run_items(items(2), Looks, work=tmp_path, engine=engine())
    assert seen == [(1, True)]
    assert (torch.get_num_threads(), torch.backends.cudnn.deterministic) == (2, False)


def test_a_worker_that_loads_pytorch_itself_computes_with_one_thread(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.execution.engines import compute_all\n"
        "from tests.execution.workers import Squares, engine, items\n"
        "class Loads(Squares):\n"
        "    def __init__(self):\n"
        "        import torch; super().__init__(); torch.set_num_threads(2); self.torch = torch\n"
        "    def compute(self, loaded):\n"
        "        print(self.torch.get_num_threads()); return super().compute(loaded)\n"
        "assert 'torch' not in sys.modules\n"
        "list(compute_all(items(2), Loads, group=4, folder=Path(sys.argv[1]), engine=engine()))\n"
        "print(sys.modules['torch'].get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "2"], done.stderr


def test_dask_that_cannot_be_loaded_or_started_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("Nanny failed to start.\nand more")

    monkeypatch.setattr("distributed.SpecCluster", refuse)
    with (
        pytest.raises(ServiceError, match=r"cannot be started: Nanny failed to start\.\n  where") as caught,
        engines._local_cluster([{}]),
    ):
        pass
    assert "/dev/shm" in str(caught.value.fix)
    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(ServiceError, match="Dask cannot be loaded") as caught:
        engines._distributed()
    assert "DASK_CONFIG" in str(caught.value.fix)
