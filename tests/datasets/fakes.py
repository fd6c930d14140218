"""Tiny twins of the data sets' layouts: 32×32 images, a few pairs, and the traps of the real ones.

`python -m tests.datasets.fakes FOLDER` writes all of them, to look at. Same seed, same bytes.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.datasets.adapters.second_cc import SECOND_CC_CLASSES

SIZE = 32
UNCHANGED = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)
CHANGED = (
    "a house is built beside the road",
    "two houses appear near the lower-left corner",
    "a t-shaped road is built on the bareland",
    "the trees are removed and a road appears",
    "several houses replace the trees",
)


def picture(rng: np.random.Generator, size: int = SIZE) -> NDArray[np.uint8]:
    """Return an RGB image (size, size, 3) of blocks, so that its PNG is small and its JPEG close."""
    blocks = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), dtype=np.uint8))


def save(path: Path, pixels: NDArray[Any]) -> Path:
    """Write an image in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write(path: Path, document: Any) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def entry(stem: str, split: str, changed: bool, number: int) -> dict[str, Any]:
    """Return one image of a caption file in LEVIR-CC's schema."""
    sentences = [
        {"tokens": text.split(), "raw": f" {text} .", "imgid": number, "sentid": 5 * number + i}
        for i, text in enumerate(CHANGED if changed else UNCHANGED)
    ]
    return {
        "filepath": split,
        "filename": f"{stem}.png",
        "imgid": number,
        "sentences": sentences,
        "split": split,
        "changeflag": int(changed),
        "sentids": [sentence["sentid"] for sentence in sentences],
    }


LEVIR_PAIRS = (
    ("train_000001", "train", False),
    ("train_000002", "train", True),
    ("train_000003", "train", True),
    ("train_000004", "train", False),
    ("val_000001", "val", True),
    ("test_000001", "test", False),
    ("test_000002", "test", True),
)


def levir_entries() -> list[dict[str, Any]]:
    """Return the twin's entries: out of order, with keys missing here and there, one pair with three sentences."""
    entries = [entry(stem, split, changed, i) for i, (stem, split, changed) in enumerate(LEVIR_PAIRS)]
    del entries[0]["changeflag"]
    del entries[1]["filepath"]
    del entries[2]["sentids"]
    entries[3]["sentences"] = entries[3]["sentences"][:3]
    del entries[4]["sentences"][0]["raw"]
    return entries[::-1]


def levir_cc(root: Path, seed: int = 0, captions: str = "LevirCCcaptions.json") -> Path:
    """Write the twin of LEVIR-CC; one image pair has no captions, and a folder holds a file that is no image."""
    rng = np.random.default_rng(seed)
    for stem, split, changed in (*LEVIR_PAIRS, ("train_000099", "train", False)):
        before = picture(rng)
        save(root / "images" / split / "A" / f"{stem}.png", before)
        save(root / "images" / split / "B" / f"{stem}.png", picture(rng) if changed else np.roll(before, 1, axis=1))
    (root / "images" / "train" / "A" / "Thumbs.db").write_bytes(b"\0")
    write(root / captions, {"images": levir_entries(), "dataset": "LEVIR-CC"})
    return root


def levir_mci(root: Path, seed: int = 0) -> Path:
    """Write the twin of LEVIR-MCI: two masks contradict their flags, one belongs to no pair, `label_rgb` misleads."""
    levir_cc(root, seed)
    for stem, split, changed in (*LEVIR_PAIRS, ("train_000077", "train", True)):
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        if changed != (stem in ("train_000001", "train_000002")):
            mask[4:8, 4:20], mask[16:24, 8:16] = 1, 2
        save(root / "images" / split / "label" / f"{stem}.png", mask)
        save(root / "images" / split / "label_rgb" / f"{stem}.png", np.full((SIZE, SIZE, 3), 7, dtype=np.uint8))
    return root


def levir_tags(root: Path, captions: str = "LevirCCcaptions.json") -> Path:
    """Write captions and object tags of the twin of LEVIR-CC, one tag file per split, and no image."""
    write(root / captions, {"images": levir_entries(), "dataset": "LEVIR-CC"})
    for split in ("train", "val", "test"):
        tags = {
            f"{stem}.png": {
                "before": ["Farmland", "Road", "Forest"],
                "after": ["Dense Residential", "Farmland", "Road"] if changed else ["Farmland", "Forest", "Road"],
            }
            for stem, of, changed in LEVIR_PAIRS
            if of == split
        }
        write(root / f"object_tags_{split}.json", tags)
    return root


def whu_cdc(root: Path, seed: int = 0) -> Path:
    """Write the twin of WHU-CDC: LEVIR's schema without flags and sentence ids; stems repeat from split to split."""
    rng = np.random.default_rng(seed)
    entries = []
    for number, (stem, split, changed) in enumerate(
        (("1", "train", True), ("2", "train", False), ("1", "val", False), ("1", "test", True))
    ):
        for date in "AB":
            save(root / "images" / split / date / f"{stem}.png", picture(rng))
        entries.append(
            {k: v for k, v in entry(stem, split, changed, number).items() if k not in ("changeflag", "sentids")}
        )
    write(root / "whuCCcaptions.json", {"images": entries})
    return root


def dubai_cc(root: Path, seed: int = 0) -> Path:
    """Write the twin of Dubai-CC: TIFF, one caption file per split, ids from zero in each, capitals and full stops."""
    rng = np.random.default_rng(seed)
    files = {"Train": ("train", ("1x4", "5x31", "6x26")), "Validation": ("val", ("8x34",)), "Test": ("test", ("2x9",))}
    unchanged = ("Nothing has changed.", "There is no difference.", "All remained the same.", "No changed to mention.")
    changed = (
        "An artificial island has been built.",
        "A road appears in the desert.",
        "The area was urbanized.",
        "New road.",
    )
    for name, (split, stems) in files.items():
        images = []
        for number, stem in enumerate(stems):
            for folder in ("500_2000", "500_2010"):
                save(root / folder / f"{stem}.tif", picture(rng))
            texts = unchanged if number % 2 == 0 else changed
            images.append(
                {
                    "filename": f"{stem}.tif",
                    "image_id": number,
                    "split": split,
                    "sentids": list(range(4 * number, 4 * number + 4)),
                    "sentences": [
                        {"image_id": number, "sentence_id": 4 * number + i, "raw": text, "tokens": text.split()}
                        for i, text in enumerate(texts)
                    ],
                }
            )
        write(root / f"{name}_Dubai_CC.json", {"dataset": "DUBAI CC", "images": images})
    return root


def second_cc(root: Path, seed: int = 0) -> Path:
    """Write the twin of SECOND-CC: RGB images and palette-coloured maps of both dates, white where nothing changes."""
    rng = np.random.default_rng(seed)
    colours = np.array([colour for _, colour in SECOND_CC_CLASSES], dtype=np.uint8)
    entries = []
    for number, (stem, split, changed) in enumerate(
        (("00001", "train", True), ("00002", "train", False), ("00003", "val", True), ("00004", "test", False))
    ):
        for date in "AB":
            save(root / split / "rgb" / date / f"{stem}.png", picture(rng))
            classes = np.zeros((SIZE, SIZE), dtype=np.uint8)
            if changed:
                classes[8:24, 8:24] = rng.integers(1, len(colours))
            save(root / split / "sem" / date / f"{stem}.png", colours[classes])
        entries.append(entry(stem, split, changed, number))
    write(root / "SECOND-CC-AUG.json", {"images": entries, "dataset": "SECOND-CC"})
    return root


def two_folders(root: Path, seed: int = 0, pairs: int = 10) -> Path:
    """Write own pairs as two folders; the stems match, the suffixes need not."""
    rng = np.random.default_rng(seed)
    for number in range(pairs):
        save(root / "A" / f"place_{number}.png", picture(rng))
        save(root / "B" / f"place_{number}.{'jpg' if number % 2 else 'tif'}", picture(rng))
    return root


def csv_list(root: Path, seed: int = 0) -> Path:
    """Write own pairs with a CSV: names of the two dates differ, captions in two columns of which one may be empty."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["before", "after", "caption_1", "caption_2", "split", "changed"])
        for number, split in enumerate(("train", "train", "val", "test")):
            before, after = f"old/site{number}_2001.png", f"new/site{number}_2011.png"
            save(root / before, picture(rng))
            save(root / after, picture(rng))
            rows.writerow(
                [before, after, "a house, with a garden, is built", "" if number else "a house appears", split, "1"]
            )
    return root


def jsonl_list(root: Path, seed: int = 0) -> Path:
    """Write own pairs with a JSONL: ids given, captions as lists."""
    rng = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    for number, split in enumerate(("train", "val")):
        save(root / f"{number}.png", picture(rng))
        save(root / f"{number}b.png", picture(rng))
        lines.append({"id": f"p{number}", "before": f"{number}.png", "after": f"{number}b.png", "split": split})
        lines[-1]["captions"] = list(CHANGED[: number + 1])
    (root / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    return root


TWINS: dict[str, Callable[[Path], Path]] = {
    "levir-cc": levir_cc,
    "levir-mci": levir_mci,
    "whu-cdc": whu_cdc,
    "dubai-cc": dubai_cc,
    "second-cc": second_cc,
    "folder": two_folders,
}

if __name__ == "__main__":
    for twin, generate in TWINS.items():
        generate(Path(sys.argv[1]) / twin)
