from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine

from pipeline.datasets.adapters import ADAPTERS
from pipeline.datasets.audit import Audit
from pipeline.datasets.checks import check_captions, check_images
from pipeline.datasets.images import read_unchanged
from pipeline.datasets.no_change import ChangeRule
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import MISMATCH_KINDS, STRICT_BY_DEFAULT, DatasetSettings, VocabularySettings
from pipeline.errors import DataError
from pipeline.files import sha256_file
from tests.datasets import fakes
from tests.datasets.raster import pictures
from tests.datasets.raster.pictures import NORTH_UP, UTM

SAME, OTHER = "nothing has changed", "a house is built"


def check(*captions: str, changed: bool | None = None, **limits: object) -> tuple[Pair, dict[str, int]]:
    audit = Audit()
    pair = Pair(id="x", split="train", before="a.png", after="b.png", captions=captions, changed=changed)
    (checked,) = check_captions([pair], VocabularySettings.model_validate(limits), audit)
    return checked, {kind: audit.count(kind) for kind in MISMATCH_KINDS if audit.count(kind)}


@pytest.mark.parametrize(
    ("captions", "changed", "notes"),
    [
        ((SAME, SAME), False, {"flag-derived": 1}),
        ((OTHER, OTHER), True, {"flag-derived": 1}),
        ((SAME, OTHER), True, {"flag-derived": 1, "captions-disagree": 1}),
        ((), None, {}),
    ],
)
def test_missing_flags_are_derived(captions: tuple[str, ...], changed: bool | None, notes: dict[str, int]) -> None:
    pair, noted = check(*captions)
    assert pair.changed is changed
    assert noted == notes


@pytest.mark.parametrize(
    ("captions", "rule", "notes"),
    [
        (["新建了一栋房子。", "a house 房子"], "words", {"caption-in-characters": 2}),
        (["新建了一栋房子。"], "release", {"caption-unsegmented": 1}),
        (["新建了一栋房子。"], "spaced", {"caption-unsegmented": 1}),
        (["新建 了 一栋 房子 。"], "spaced", {}),
        (["มีการสร้างอาคารใหม่ใกล้ถนน 12 หลัง"], "spaced", {"caption-unsegmented": 1}),
        (["एक इमारत बनाई गई है", "새 집이 지어졌다"], "words", {}),
        ([OTHER], "words", {}),
    ],
)
def test_captions_without_spaces_are_told(captions: list[str], rule: str, notes: dict[str, int]) -> None:
    _, noted = check(*captions, changed=True, tokens=rule)
    assert noted == notes
    assert "caption-unsegmented" in STRICT_BY_DEFAULT


def test_flags_of_captions_that_no_rule_can_judge_stay_unknown() -> None:
    house, same = "एक इमारत बनाई गई है", "कोई बदलाव नहीं"
    assert check(house, same) == (check(house, same)[0], {"flag-unknown": 1})
    assert check(house, same)[0].changed is None
    assert check(house, same, changed=False)[1] == {}
    pairs = [
        Pair(id=text, split="train", before="a.png", after="b.png", captions=(text,)) for text in (house, f"{same}।")
    ]
    audit = Audit()
    checked = check_captions(pairs, VocabularySettings(), audit, ChangeRule({"hi": [same]}))
    assert [pair.changed for pair in checked] == [True, False]
    assert audit.count("flag-derived") == 2


@pytest.mark.parametrize(
    ("captions", "changed", "notes"),
    [
        ((SAME,), True, {"flag-contradicts-captions": 1}),
        ((OTHER,), False, {"flag-contradicts-captions": 1}),
        ((SAME, OTHER), False, {"captions-disagree": 1}),
        ((SAME,), False, {}),
        ((OTHER,), True, {}),
    ],
)
def test_given_flags_are_kept_and_checked(captions: tuple[str, ...], changed: bool, notes: dict[str, int]) -> None:
    pair, noted = check(*captions, changed=changed)
    assert pair.changed is changed
    assert noted == notes


@pytest.mark.parametrize("empty", ["", " ", ".", " ?!"])
def test_empty_captions_are_dropped_and_noted(empty: str) -> None:
    pair, noted = check(empty, OTHER, changed=True)
    assert pair.captions == (OTHER,)
    assert noted == {"caption-empty": 1}


def test_too_long_captions() -> None:
    assert check(OTHER, changed=True, max_length=6)[1] == {}
    with pytest.raises(DataError, match="6 tokens") as caught:
        check(OTHER, changed=True, max_length=5)
    assert caught.value.where == "pair x"
    pair, noted = check(OTHER, changed=True, max_length=5, too_long="truncate")
    assert pair.captions == (OTHER,)
    assert noted == {"caption-too-long": 1}


def verify(root: Path, dataset: str = "levir-cc", **changes: object) -> tuple[dict[str, tuple[Pair, str]], Audit]:
    settings = DatasetSettings.model_validate({"dataset": dataset, "root": str(root), **changes})
    adapter, audit = ADAPTERS.resolve(dataset), Audit()
    assert adapter.list_pairs is not None
    pairs = adapter.list_pairs(settings, Audit()).pairs
    checked = list(check_images(pairs, settings, adapter, audit, threads=3))
    assert [None if item is None else item[0].id for item in checked] == [
        pair.id if any(item and item[0].id == pair.id for item in checked) else None for pair in pairs
    ]
    return {item[0].id: item for item in checked if item is not None}, audit


def notes(audit: Audit) -> dict[str, int]:
    return {kind: audit.count(kind) for kind in MISMATCH_KINDS if audit.count(kind)}


def test_hashes_of_every_file(tmp_path: Path) -> None:
    pairs, audit = verify(fakes.second_cc(tmp_path), "second-cc")
    pair, size = pairs["00001"]
    assert size == "32×32"
    fields = ("before", "after", "semantic_before", "semantic_after")
    assert pair.sha256 == {name: sha256_file(tmp_path / getattr(pair, name)) for name in fields}
    assert notes(audit) == {}


@pytest.mark.parametrize("date", ["A", "B"])
def test_unreadable_images_cost_their_pair_only(tmp_path: Path, date: str) -> None:
    fakes.levir_cc(tmp_path)
    path = tmp_path / "images" / "train" / date / "train_000002.png"
    path.write_bytes(path.read_bytes()[:50])
    pairs, audit = verify(tmp_path)
    assert "train_000002" not in pairs
    assert len(pairs) == 6
    assert notes(audit) == {"image-unreadable": 1}


def test_sizes_within_a_pair(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    fakes.save(tmp_path / "images" / "val" / "B" / "val_000001.png", np.zeros((32, 24, 3), dtype=np.uint8))
    pairs, audit = verify(tmp_path)
    assert "val_000001" not in pairs
    assert audit.report(())["size-mismatch"]["listed"] == ["val_000001: differ in size: 32×32 before, 24×32 after"]


def geotiffs(folder: Path, **after: object) -> Path:
    """Write one own pair of GeoTIFFs; `after` are further options of the later one."""
    for date, options in (("A", {}), ("B", after)):
        (folder / date).mkdir()
        profile = {"photometric": "RGB", "crs": UTM, "transform": NORTH_UP} | options
        pictures.tiff(folder / date / "x.tif", pictures.PIXELS, **profile)
    return folder


def test_pairs_of_other_ground_are_errors_that_can_be_allowed(tmp_path: Path) -> None:
    root = geotiffs(tmp_path, crs="EPSG:32637")
    pairs, audit = verify(root, "folder")
    assert notes(audit) == {"georeference-mismatch": 1}
    assert list(pairs) == ["x"]
    with pytest.raises(DataError, match=r"pair x do not cover the same ground: .*EPSG:32636 and EPSG:32637") as caught:
        audit.check(STRICT_BY_DEFAULT, root)
    assert "take georeference-mismatch out of prepare.strict" in str(caught.value.fix)
    audit.check(set(STRICT_BY_DEFAULT) - {"georeference-mismatch"}, root)


def test_coordinates_of_one_date_alone_are_noted(tmp_path: Path) -> None:
    _, audit = verify(geotiffs(tmp_path, crs=None, transform=None), "folder")
    assert notes(audit) == {"georeference-missing": 1}
    audit.check(STRICT_BY_DEFAULT, tmp_path)


def test_the_share_without_data_is_noted_above_a_limit(tmp_path: Path) -> None:
    value = int(pictures.PIXELS[0, 0, 0])
    root = geotiffs(tmp_path)
    grey = np.full(pictures.GREY.shape, value, dtype=np.uint8)
    grey[:6] = 255 - value
    pictures.tiff(root / "B" / "x.tif", grey, crs=UTM, transform=NORTH_UP, nodata=255 - value)
    _, audit = verify(root, "folder", convert_images=True)
    assert audit.items("no-data") == (
        "B/x.tif: 192 of its pixels (25.0%) have no data (nodata, masked, transparent) and are black",
    )
    assert notes(verify(root, "folder", convert_images=True, nodata_share=0.25)[1]) == {}


def test_what_was_done_to_pixels_is_noted(tmp_path: Path) -> None:
    turned = NORTH_UP * Affine.translation(0, len(pictures.PIXELS)) * Affine.scale(1, -1)
    pairs, audit = verify(geotiffs(tmp_path, transform=turned), "folder")
    assert audit.items("image-adjusted") == (
        "B/x.tif: it is mirrored top to bottom, as its coordinates ask for, so that north is up",
    )
    path, digest = tmp_path / "B" / "x.tif", pairs["x"][0].sha256["after"]
    assert digest == sha256_file(path)
    assert np.array_equal(read_unchanged(path, digest), pictures.PIXELS[::-1])


def test_conversion_is_by_setting(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    fakes.save(tmp_path / "images" / "val" / "B" / "val_000001.png", np.zeros((32, 32), dtype=np.uint8))
    assert notes(verify(tmp_path)[1]) == {"image-unreadable": 1}
    assert notes(verify(tmp_path, convert_images=True)[1]) == {}


def test_pixel_limit_is_by_setting(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    assert notes(verify(tmp_path, max_megapixels=0.001)[1]) == {"image-unreadable": 7}


def test_masks_that_contradict_flags(tmp_path: Path) -> None:
    _, audit = verify(fakes.levir_mci(tmp_path), "levir-mci")
    # The other contradicting mask belongs to a pair whose flag is not given.
    assert audit.report(())["flag-contradicts-mask"]["listed"] == ["train_000002: flag 1, but its masks show none"]


def test_unreadable_masks_are_taken_off(tmp_path: Path) -> None:
    fakes.second_cc(tmp_path)
    fakes.save(tmp_path / "train" / "sem" / "A" / "00001.png", np.full((32, 32, 3), 7, dtype=np.uint8))
    pairs, audit = verify(tmp_path, "second-cc")
    pair, _ = pairs["00001"]
    assert (pair.semantic_before, pair.semantic_after, set(pair.sha256)) == (None, None, {"before", "after"})
    assert notes(audit) == {"mask-unreadable": 1}


def test_masks_of_another_size_are_taken_off(tmp_path: Path) -> None:
    fakes.levir_mci(tmp_path)
    fakes.save(tmp_path / "images" / "val" / "label" / "val_000001.png", np.zeros((16, 16), dtype=np.uint8))
    pairs, audit = verify(tmp_path, "levir-mci")
    assert pairs["val_000001"][0].change_mask is None
    assert audit.report(())["mask-unreadable"]["listed"] == ["val_000001: the mask is 16×16, its images 32×32"]


def test_the_same_image_in_two_splits(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    images = tmp_path / "images"
    (images / "test" / "A" / "test_000001.png").write_bytes((images / "train" / "A" / "train_000002.png").read_bytes())
    _, audit = verify(tmp_path)
    assert audit.count("image-in-two-splits") == 1


def test_a_changed_pair_of_one_and_the_same_image(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    images = tmp_path / "images" / "train"
    (images / "B" / "train_000002.png").write_bytes((images / "A" / "train_000002.png").read_bytes())
    _, audit = verify(tmp_path)
    assert audit.report(())["before-equals-after"]["listed"] == ["train_000002"]
