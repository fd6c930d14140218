from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import parse_section
from pipeline.datasets.records import Pair, read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import DataError, OutputError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from stages import masks, scenes
from stages.prepare import run, summary
from stages.settings import MasksSettings, PrepareSettings, ScenesSettings
from tests.datasets import fakes
from tests.datasets.reference import reference
from tests.places import at

ENGINE = EngineSettings(workers=2)


def settings(dataset: str, root: Path | str, **changes: Any) -> PrepareSettings:
    vocabulary = {"min_count": 1, **changes.pop("vocabulary", {})}
    return parse_section(
        {"dataset": dataset, "root": str(root), "vocabulary": vocabulary, **changes}, "prepare", PrepareSettings
    )


def audit(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output / "audit.json").read_text())
    return report


def totals(output: Path) -> dict[str, int]:
    return {
        kind: mismatches["total"] for kind, mismatches in audit(output)["mismatches"].items() if mismatches["total"]
    }


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", fakes.TWINS)
def test_every_twin_is_prepared_the_same_twice(tmp_path: Path, name: str) -> None:
    root = fakes.TWINS[name](tmp_path / "data")
    output = run(settings(name, root), at(prepared=tmp_path / "out"), engine=ENGINE)
    prepared = read_prepared(output)
    assert prepared.card.name == name
    assert prepared.root == root
    assert all(set(pair.sha256) >= {"before", "after"} for pair in prepared.pairs)
    assert Vocabulary.load(prepared.vocabulary_path).dataset == name
    assert contents(output) == contents(
        run(settings(name, root), at(prepared=tmp_path / "again"), engine=EngineSettings(workers=1))
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "data", "out"]


def test_what_the_audit_counts(tmp_path: Path) -> None:
    output = run(
        settings("levir-mci", fakes.levir_mci(tmp_path / "data")),
        at(prepared=tmp_path / "out"),
        engine=ENGINE,
    )
    # Both contradicting masks: the flag of one pair is derived from its captions first.
    assert totals(output) == {
        "image-without-caption": 1,
        "flag-derived": 1,
        "flag-contradicts-mask": 2,
        "mask-without-pair": 1,
    }
    train = audit(output)["statistics"]["splits"]["train"]
    assert (train["pairs"], train["changed"], train["unchanged"], train["captions"]) == (4, 2, 2, 18)
    assert train["known_share"] == 1.0
    assert audit(output)["statistics"]["image_sizes"] == {"32×32": 7}
    assert audit(output)["left_out_pairs"] == 0


def test_vocabulary_policies(tmp_path: Path) -> None:
    root = fakes.csv_list(tmp_path / "data")
    with (root / "pairs.csv").open("a") as stream:
        stream.write("old/site0_2001.png,new/site1_2011.png,a school vanishes,,test,1\n")
        stream.write("gone.png,gone.png,a lake appears,,train,1\n")
    text = (root / "pairs.csv").read_text().replace("split,changed\n", "split,changed,id\n")
    lines = text.splitlines()
    (root / "pairs.csv").write_text("\n".join([lines[0], *(f"{line},{i}" for i, line in enumerate(lines[1:]))]) + "\n")
    common = {"captions": "pairs.csv", "folder": {"split": "column"}, "allow_missing_images": True}

    def words(**vocabulary: object) -> set[str]:
        output = run(
            settings("folder", root, vocabulary=vocabulary, **common),
            at(prepared=tmp_path / "out"),
            engine=ENGINE,
        )
        return set(Vocabulary.load(output / "vocabulary.json").words)

    assert not words() & {"school", "lake"}
    assert words(policy="all-splits") & {"school", "lake"} == {"school"}
    assert words(pairs="all") & {"school", "lake"} == {"lake"}


def test_missing_images_are_an_error_unless_allowed(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    for split in ("val", "test"):
        for path in (root / "images" / split).rglob("*.png"):
            path.unlink()
    with pytest.raises(DataError, match="3 captioned pairs without both images") as caught:
        run(settings("levir-cc", root), at(prepared=tmp_path / "out"), engine=ENGINE)
    assert "prepare.allow_missing_images: true" in str(caught.value.fix)
    output = run(
        settings("levir-cc", root, allow_missing_images=True),
        at(prepared=tmp_path / "out"),
        engine=ENGINE,
    )
    assert read_prepared(output).card.pairs == {"train": 4, "val": 0, "test": 0}
    assert audit(output)["left_out_pairs"] == 3
    assert "left out: 3 pairs whose images are missing or cannot be used" in summary(output)


def test_without_images_captions_make_the_pairs_and_stages_of_pixels_refuse(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    whole = read_prepared(run(settings("levir-cc", root), at(prepared=tmp_path / "whole"), engine=ENGINE))
    shutil.rmtree(root / "images")
    output = run(settings("levir-cc", root, images="none"), at(prepared=tmp_path / "out"), engine=ENGINE)
    prepared = read_prepared(output)
    assert prepared.pairs == tuple(pair.model_copy(update={"sha256": {}}) for pair in whole.pairs)
    assert not prepared.card.images and whole.card.images
    assert "images" not in json.loads((tmp_path / "whole" / "dataset.json").read_text())
    assert (output / "vocabulary.json").read_bytes() == (tmp_path / "whole" / "vocabulary.json").read_bytes()
    for stage, kind in ((scenes, ScenesSettings), (masks, MasksSettings)):
        with pytest.raises(DataError, match="prepared without its images") as caught:
            stage.run(kind(), at(prepared=output), engine=ENGINE)
        assert "prepare.images: read" in str(caught.value.fix)


def test_only_data_sets_whose_captions_name_all_pairs_go_without_images(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="images: none is for levir-cc"):
        settings("folder", tmp_path, images="none")


def test_min_count_that_no_word_reaches(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        run(
            settings("levir-cc", root, vocabulary={"min_count": 50}),
            at(prepared=tmp_path / "out"),
            engine=ENGINE,
        )
    assert "lower prepare.vocabulary.min_count" in str(caught.value.fix)
    assert not (tmp_path / "out").exists()


def spoil_image(kind: str) -> Any:
    def spoil(root: Path) -> None:
        path = root / "images" / "train" / "B" / "train_000002.png"
        pixels = fakes.picture(np.random.default_rng(5))
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:60])
        elif kind == "empty":
            path.write_bytes(b"")
        elif kind == "small":
            fakes.save(path, pixels[:16])
        else:
            from PIL import Image

            image = Image.fromarray(pixels)
            {
                "greyscale": image.convert("L"),
                "RGBA": image.convert("RGBA"),
                "palette": image.quantize(4),
                "16-bit": Image.fromarray(np.zeros((32, 32), dtype=np.uint16)),
            }[kind].save(path)

    return spoil


def spoil_captions(text: str | bytes) -> Any:
    def spoil(root: Path) -> None:
        (root / "LevirCCcaptions.json").write_bytes(text.encode() if isinstance(text, str) else text)

    return spoil


def spoil_entries(**changes: Any) -> Any:
    def spoil(root: Path) -> None:
        entries = fakes.levir_entries()
        entries[0] |= changes
        fakes.write(root / "LevirCCcaptions.json", {"images": entries})

    return spoil


def remove_images(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


BAD = {
    "no caption file": (lambda root: (root / "LevirCCcaptions.json").unlink(), "is not there"),
    "no images": (remove_images, "no images"),
    "truncated JSON": (spoil_captions('{"images": [{"filename": "a'), "not valid JSON"),
    "not UTF-8": (spoil_captions(b'{"images": "\xff"}'), "not UTF-8"),
    "other schema": (spoil_captions('{"annotations": []}'), "another schema"),
    "absolute path": (spoil_entries(filename="/etc/passwd"), "is absolute"),
    "path that leaves": (spoil_entries(filename="../../x.png"), "leaves its folder"),
    "duplicate name": (spoil_entries(filename="test_000001.png", filepath="test"), "names that are given twice"),
    "split contradicts folder": (spoil_entries(split="train"), "split is given twice"),
    "empty caption": (spoil_entries(sentences=[{"raw": " . "}]), "captions without any word"),
    "long caption": (spoil_entries(sentences=[{"raw": "a " * 50}]), "52 tokens"),
    "half a pair": (
        lambda root: (root / "images" / "train" / "B" / "train_000099.png").unlink(),
        "earlier images without a later one",
    ),
    "truncated image": (spoil_image("truncated"), "damaged"),
    "empty image": (spoil_image("empty"), "0 bytes"),
    "greyscale": (spoil_image("greyscale"), "is greyscale"),
    "RGBA": (spoil_image("RGBA"), "is RGBA"),
    "palette": (spoil_image("palette"), "is a palette image"),
    "16-bit": (spoil_image("16-bit"), "more than 8 bits"),
    "two sizes": (spoil_image("small"), "differ in size"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    spoil, message = BAD[name]
    spoil(root)
    with pytest.raises(DataError, match=message) as caught:
        run(settings("levir-cc", root), at(prepared=tmp_path / "out"), engine=ENGINE)
    assert caught.value.where is not None
    assert caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["greyscale", "RGBA", "palette"])
def test_images_are_converted_on_request(tmp_path: Path, name: str) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    spoil_image(name)(root)
    output = run(settings("levir-cc", root, convert_images=True), at(prepared=tmp_path / "out"), engine=ENGINE)
    assert len(read_prepared(output).pairs) == 7


def test_sixteen_bits_are_not_converted(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    spoil_image("16-bit")(root)
    with pytest.raises(DataError, match="more than 8 bits"):
        run(settings("levir-cc", root, convert_images=True), at(prepared=tmp_path / "out"), engine=ENGINE)


def test_leniency_leaves_the_pair_out_and_says_so(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    spoil_image("truncated")(root)
    output = run(settings("levir-cc", root, strict=[]), at(prepared=tmp_path / "out"), engine=ENGINE)
    assert "train_000002" not in read_prepared(output).index
    assert audit(output)["left_out_pairs"] == 1
    assert totals(output)["image-unreadable"] == 1


def test_names_are_judged_before_any_image_is_read(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    spoil_image("truncated")(root)
    spoil_entries(split="train")(root)
    with pytest.raises(DataError, match="split is given twice"):
        run(settings("levir-cc", root), at(prepared=tmp_path / "out"), engine=ENGINE)


def test_no_pair_can_be_used(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    for path in root.rglob("*.png"):
        path.write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="no pair of the data set can be used"):
        run(settings("levir-cc", root, strict=[]), at(prepared=tmp_path / "out"), engine=ENGINE)


def test_strictness_can_be_extended(tmp_path: Path) -> None:
    root = fakes.levir_mci(tmp_path / "data")
    with pytest.raises(DataError, match="2 pairs whose change flag contradicts the change in their masks"):
        run(
            settings("levir-mci", root, strict=["flag-contradicts-mask"]),
            at(prepared=tmp_path / "out"),
            engine=ENGINE,
        )


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_root_missing_empty_or_a_file(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "data")
    for name in fakes.TWINS:
        with pytest.raises(DataError, match="root"):
            run(settings(name, tmp_path / "data"), at(prepared=tmp_path / "out"), engine=ENGINE)


def test_older_output_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    output = run(settings("levir-cc", root), at(prepared=tmp_path / "out"), engine=ENGINE)
    before = contents(output)
    spoil_image("truncated")(root)
    with pytest.raises(DataError):
        run(settings("levir-cc", root), at(prepared=output), engine=ENGINE)
    assert contents(output) == before


def test_older_output_is_replaced_as_a_whole(tmp_path: Path) -> None:
    output = run(settings("levir-cc", fakes.levir_cc(tmp_path / "a")), at(prepared=tmp_path / "out"), engine=ENGINE)
    run(settings("second-cc", fakes.second_cc(tmp_path / "b")), at(prepared=output), engine=ENGINE)
    assert read_prepared(output).card.name == "second-cc"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_output_among_other_files(tmp_path: Path) -> None:
    root = fakes.levir_cc(tmp_path / "data")
    with pytest.raises(OutputError, match="holds other files"):
        run(settings("levir-cc", root), at(prepared=root), engine=ENGINE)
    assert (root / "LevirCCcaptions.json").is_file()


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = fakes.levir_cc(tmp_path / "data")
    with pytest.raises(OutputError, match="cannot write"):
        run(settings("levir-cc", root), at(prepared=tmp_path / "file" / "out"), engine=ENGINE)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "levir"},
        {"root": ""},
        {"strict": ["everything"]},
        {"max_megapixels": 0},
        {"vocabulary": {"min_count": 0}},
        {"folder": {"val_share": 0.6, "test_share": 0.4}},
        {"rooot": "x"},
    ],
)
def test_settings_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        parse_section({"dataset": "levir-cc", "root": "x", **changes}, "prepare", PrepareSettings)


@pytest.fixture
def stand_in_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate_world(world: Any, folder: Path, *, engine: EngineSettings, **_: Any) -> list[Pair]:
        rng = np.random.default_rng(world.seed)
        pairs = []
        for number, split in enumerate(("train", "val", "test")):
            paths = {
                date: fakes.save(folder / f"{number}_{date}.png", fakes.picture(rng)) for date in ("before", "after")
            }
            pairs.append(
                Pair(
                    id=str(number),
                    split=split,
                    captions=("a house is built",),
                    changed=True,
                    sha256={date: sha256_file(path) for date, path in paths.items()},
                    **{date: path.name for date, path in paths.items()},
                )
            )
        return pairs

    monkeypatch.setattr("stages.prepare.generate_world", generate_world)


@pytest.mark.usefixtures("stand_in_world")
def test_synthetic_world_lies_in_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = run(settings("synthetic", ""), at(prepared=Path("artifacts/prepared")), engine=ENGINE)
    prepared = read_prepared(output)
    assert prepared.card.root == "artifacts/prepared/world"
    assert [sha256_file(prepared.root / pair.before) for pair in prepared.pairs] == [
        pair.sha256["before"] for pair in prepared.pairs
    ]
    first = {path.relative_to(output): sha256_file(path) for path in sorted(output.rglob("*")) if path.is_file()}
    run(settings("synthetic", ""), at(prepared=output), engine=ENGINE)
    assert first == {
        path.relative_to(output): sha256_file(path) for path in sorted(output.rglob("*")) if path.is_file()
    }


def test_importing_the_stage_loads_no_heavy_package() -> None:
    heavy = ("torch", "rasterio", "dask", "matplotlib")
    code = f"import sys, stages.prepare; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.reference_data
def test_real_levir_cc_with_three_pairs(tmp_path: Path) -> None:
    root = reference("levir_cc")
    output = run(
        settings("levir-cc", root, allow_missing_images=True),
        at(prepared=tmp_path / "out"),
        engine=ENGINE,
    )
    prepared = read_prepared(output)
    assert [pair.id for pair in prepared.pairs] == ["train_000016", "train_000051", "train_000054"]
    assert audit(output)["left_out_pairs"] == 8_145
    assert totals(output) == {"caption-without-image": 8_145}
    vocabulary = Vocabulary.load(prepared.vocabulary_path)
    assert (
        vocabulary.decode(vocabulary.encode(prepared.pairs[0].captions[0]))
        == "several houses appear on the bareland at the bottom"
    )
    everything = {"pairs": "all", "min_count": 5}
    run(
        settings("levir-cc", root, allow_missing_images=True, vocabulary=everything),
        at(prepared=output),
        engine=ENGINE,
    )
    assert len(Vocabulary.load(output / "vocabulary.json").words) == 432
