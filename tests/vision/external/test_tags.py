from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.caption_graph.settings import TextEncoderSettings
from pipeline.caption_graph.text_encoders import HashedEncoder
from pipeline.errors import DataError
from pipeline.files import sha256_file
from pipeline.vision.external.settings import SourceSettings
from pipeline.vision.external.tags import TagWorker, list_tags, rank_scores, read_tags, text_weights
from tests.datasets.fakes import write
from tests.datasets.reference import reference
from tests.vision.external.example_pairs import LABELS, PAIRS

HASHED = TextEncoderSettings(encoder="hashed", width=16)
TRAIN = {
    "train_1.png": {"before": ["Road", "Farmland"], "after": ["Dense Residential", "Road", "Farmland"]},
    "train_2.png": {"before": ["Farmland", "Road"], "after": ["Farmland"]},
}
VAL = {"val_1.png": {"before": ["Road", "Farmland"], "after": [" Airport "]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "tags_train.json", TRAIN)
    write(tmp_path / "tags_val.json", VAL)
    return tmp_path


def source(**changes: object) -> SourceSettings:
    return SourceSettings.model_validate({"kind": "tags", "file": "tags_{split}.json", "text": HASHED, **changes})


def test_every_date_gets_its_tags_and_their_numbers_in_alphabetical_order(root: Path) -> None:
    listed = list_tags(PAIRS, source(), root)
    assert [item.label for item in listed.items] == LABELS
    assert listed.items[0].payload == (("Road", 3, pytest.approx(2 / 3)), ("Farmland", 2, pytest.approx(1 / 3)))
    assert listed.items[1].payload == (("Dense Residential", 1, 0.0), ("Road", 3, 1.0), ("Farmland", 2, 0.5))
    assert listed.items[5].payload == (("Airport", 0, 0.0),)
    assert len({item.key for item in listed.items}) == 6
    assert listed.upstream == {name: sha256_file(root / name) for name in ("tags_train.json", "tags_val.json")}


def test_regions_by_a_plain_loop() -> None:
    tags = (("Road", 2, 0.25), ("Dense Residential", 0, 0.0), ("Farmland", 1, 1.0))
    arrays = TagWorker(HASHED).compute([tags])[0]
    encoder = HashedEncoder(16)
    for rank, (tag, number, other) in enumerate(tags):
        score = 1 - rank / 3
        vector = encoder.encode([tag])[0]
        expected = [*vector, *(score * value for value in vector), *(other * value for value in vector)]
        np.testing.assert_allclose(arrays["embeddings"][rank], expected, atol=1e-3)
        assert arrays["scores"][rank] == pytest.approx(score) and arrays["category"][rank] == number
        assert arrays["similarity"][rank, 0] == pytest.approx(score, abs=1e-3)
    assert arrays["selected"].tolist() == [1, 1, 1] and not arrays["boxes"].any() and not arrays["size"].any()


def test_no_tags_are_no_regions() -> None:
    arrays = TagWorker(HASHED).compute([()])[0]
    assert arrays["embeddings"].shape == (0, 48) and len(arrays["scores"]) == 0 == len(rank_scores(0))


def test_a_hashed_encoder_has_no_weights() -> None:
    assert text_weights(HASHED) == {}


def test_dates_without_tags_are_named_unless_allowed(root: Path) -> None:
    write(root / "tags_val.json", {"val_1.png": {"before": ["Road"]}, "val_9.png": {"before": [], "after": []}})
    with pytest.raises(DataError, match="1 dates have no tags: val_1 after") as caught:
        list_tags(PAIRS, source(), root)
    assert "allow_missing" in str(caught.value.fix)
    listed = list_tags(PAIRS, source(allow_missing=True), root)
    assert listed.items[5].payload == ()
    write(root / "none.json", {})
    with pytest.raises(DataError, match="no tag for any pair"):
        list_tags(PAIRS, source(file="none.json", allow_missing=True), root)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "no object"),
        ({"a.png": ["Road"]}, "no {before, after}"),
        ({"a.png": {"between": []}}, "no {before, after}"),
        ({"a.png": {"before": "Road"}}, "no list of words"),
        ({"a.png": {"before": ["Road", 3]}}, "no list of words"),
        ({"a.png": {"before": ["Road", " "]}}, "no list of words"),
        ({"a.png": {"before": ["Road", "Road "]}}, "'Road' stands twice"),
        ({"a.png": {}, "a.jpg": {}}, "stem 'a' stands twice"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_tags(write(tmp_path / "tags.json", document))
    assert str(tmp_path / "tags.json") in str(caught.value.where) and caught.value.fix


def test_missing_and_truncated_files_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match="cannot read") as caught:
        list_tags(PAIRS, source(file="other_{split}.json"), root)
    assert "semantics.source.file" in str(caught.value.fix)
    path = root / "tags_train.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match="not valid JSON"):
        list_tags(PAIRS, source(), root)


def test_files_outside_of_the_root_are_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match="leaves its folder"):
        list_tags(PAIRS, source(file="../tags_{split}.json"), root)
    with pytest.raises(DataError, match="absolute"):
        list_tags(PAIRS, source(file="/etc/hostname"), root)
    outside = write(tmp_path_factory.mktemp("elsewhere") / "tags.json", TRAIN)
    (root / "link.json").symlink_to(outside)
    with pytest.raises(DataError, match="leads out"):
        list_tags(PAIRS, source(file="link.json"), root)


@pytest.mark.reference_data
def test_real_tags_are_told_apart() -> None:
    tags = read_tags(reference("levir_cc", "object_tags_train.json"))
    assert len(tags) == 6_815 and {len(words) for dates in tags.values() for words in dates.values()} == {9}
    names = sorted({tag for dates in tags.values() for words in dates.values() for tag in words})
    vectors = HashedEncoder(SourceSettings().text.width).encode(names)
    spread = np.linalg.svd(vectors, compute_uv=False)
    assert len(names) == 52 and spread[0] / spread[-1] < 6


def test_names_that_differ_are_told(root: Path) -> None:
    path = root / "tags_train.json"
    write(path, {name.upper(): tags for name, tags in TRAIN.items()})
    with pytest.raises(DataError, match=r"no tags: .* \(the file has TRAIN_1: capitals count\)"):
        list_tags(PAIRS, source(), root)
    write(path, {f"x{name}": tags for name, tags in TRAIN.items()})
    with pytest.raises(DataError, match=r"\(the file has no train_1, but xtrain_1, say\)"):
        list_tags(PAIRS, source(), root)


@pytest.mark.parametrize(
    ("document", "what"),
    [
        (["a"], "no object but a list of 1, the first of which is `a`"),
        ({"a.png": ["x"]}, "no {before, after} but a list of 1"),
        ({"a.png": {"Before": []}}, "but an object with the keys `Before`"),
        ({"a.png": {"before": "x y"}}, "tags are no list of words but `x y`"),
    ],
)
def test_what_another_form_holds_is_shown(tmp_path: Path, document: object, what: str) -> None:
    write(tmp_path / "tags.json", document)
    with pytest.raises(DataError) as caught:
        read_tags(tmp_path / "tags.json")
    assert what in caught.value.what
