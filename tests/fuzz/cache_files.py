"""Reading of mutated caches, in a process of its own: damaged HDF5 files may crash the library and its process.

`python -m tests.fuzz.cache_files FOLDER START COUNT` mutates the caches in FOLDER in turn and reads each mutant as
`sagecc inspect` and the stages do. It prints the outcomes as JSON; FOLDER/at names the mutant under way.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import sys
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from pipeline.cache import inspect
from pipeline.cache.reader import Cache
from pipeline.caption_graph.store import SCHEMA as GRAPH
from pipeline.vision.grounding.cache import SCHEMA as SEMANTICS
from pipeline.vision.matching.cache import SCHEMA as MATCHES
from pipeline.vision.regions.cache import SCHEMA as REGIONS
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.scenes.worker import SCHEMA as SCENES
from tests.fuzz import mutators
from tests.fuzz.reading import Tally

SEED: Final = 17
SCHEMAS: Final = {
    "scenes": SCENES,
    "masks": MASKS,
    "regions": REGIONS,
    "matches": MATCHES,
    "semantics": SEMANTICS,
    "graph": GRAPH,
}
PATIENCE: Final = 60
"""Seconds after which a hanging reader is stopped with its traceback."""
_MEMORY: Final = 8 << 30
"""Bytes of addresses: a size that damage makes enormous must not take the machine's memory."""

_ODD: Final[tuple[Any, ...]] = (
    *(0, -1, 2**62, 1.5, float("nan"), b"", b"\xff", "", "x", "[]", "{}", "null", "1", '["x"]', '{"x": 1}', "é", True),
    *([1, 2], [[0.5]], np.zeros((0,), "i4"), np.array([b"a", b"bc"]), h5py.Empty("f")),
    *('["ids"]', '["missing", "features"]', "pair", "image", "[" * 3000, '["' + "a" * 3000 + '"]'),
)


def mutate(sound: Path, mutant: Path, rng: random.Random) -> None:
    """Write a mutant: half by bytes, half by the HDF5 library itself, so that checksums agree."""
    data = sound.read_bytes()
    if rng.random() < 0.5:
        mutant.write_bytes(mutators.mutated_bytes(data, rng))
        return
    mutant.write_bytes(data)
    with h5py.File(mutant, "r+", libver=("v110", "v110")) as file:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change(file, rng)


def _change(file: h5py.File, rng: random.Random) -> None:
    links = {name: file.get(name, getlink=True) for name in file}
    names = [name for name, link in links.items() if isinstance(link, h5py.HardLink) and _is_data(file, name)]
    node: Any = file if rng.random() < 0.5 or not names else file[rng.choice(names)]
    attributes = sorted(node.attrs)
    if attributes and rng.random() < 0.6:
        name = rng.choice(attributes)
        del node.attrs[name]
        if rng.random() < 0.8:
            node.attrs[name] = rng.choice(_ODD)
        return
    if not names:
        return
    name = rng.choice(names)
    dataset = file[name]
    values, kept = dataset[...], dict(dataset.attrs)
    del file[name]
    kind = rng.randrange(8)
    if kind == 0:
        return
    if kind == 1:
        file.create_group(name)
    elif kind == 2:
        file[name] = h5py.SoftLink("/" + rng.choice(names))
    elif kind == 3:
        file[name] = h5py.ExternalLink("nowhere.h5", "/x")
    else:
        _replace(file, name, values, rng, kind)
        for key, value in kept.items():
            file[name].attrs[key] = value


def _replace(file: h5py.File, name: str, values: Any, rng: random.Random, kind: int) -> None:
    """Put another data set in the place of one: another type, another shape, an enormous one, or other values."""
    if kind == 4:
        dtype = rng.choice(("f8", "i1", "u8", ">f4", "S3", h5py.string_dtype(), np.dtype([("a", "i4")]), "c8", "?"))
        file.create_dataset(name, values.shape, dtype=dtype)
    elif kind == 5:
        shape = rng.choice(((), (0,), (3,), (values.shape[0] + 1, *values.shape[1:]), (2, 2, 2, 2, 2)))
        file.create_dataset(name, shape, dtype=values.dtype)
    elif kind == 6:
        rows = rng.choice((2**20, 2**40, 2**60))
        shape = tuple(max(length, 1) for length in values.shape[1:])
        file.create_dataset(name, (rows, *shape), dtype=values.dtype, chunks=(1, *shape))
    else:
        other = values.copy()
        if other.dtype.kind in "iuf" and other.size:
            other.flat[rng.randrange(other.size)] = rng.choice((0, 1, 100))
        file.create_dataset(name, data=other[::-1] if rng.random() < 0.5 else other)


def _is_data(file: h5py.File, name: str) -> bool:
    # An enormous one, of an earlier change, cannot be read to be changed again.
    return isinstance(file[name], h5py.Dataset) and file[name].size < 1 << 20


def read(path: Path, name: str) -> None:
    """Read a cache as `sagecc inspect`, a stage and `verify` do."""
    from rich.console import Console

    Console(file=Path("/dev/null").open("w"), width=100).print(inspect.render(inspect.describe(path)))  # noqa: SIM115
    with Cache.open(path, SCHEMAS[name]) as cache:
        assert len(cache.sha256) == 64
        for field in cache.schema.fields:
            cache.rows(field.name, list(range(len(cache))))
            cache.tensor(field.name, "cpu")
        cache.verify()


def main(folder: Path, start: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    tally = Tally()
    mutant = folder / "mutant.h5"
    names = list(SCHEMAS)
    for number in range(start, start + count):
        name = names[number % len(names)]
        label = f"mutant {number} of seed {SEED}, {name}.h5"
        (folder / "at").write_text(label)
        mutant.unlink(missing_ok=True)
        mutate(folder / f"{name}.h5", mutant, mutators.generator(SEED, number))
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        tally.try_to(lambda name=name: read(mutant, name), label)  # type: ignore[misc]
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"outcomes": tally.outcomes, "slowest": tally.slowest}))


if __name__ == "__main__":
    faulthandler.enable()
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
