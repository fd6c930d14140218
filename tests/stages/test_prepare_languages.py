from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import parse_section
from pipeline.datasets.records import read_prepared
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import DataError, SettingsError
from pipeline.execution.settings import EngineSettings
from stages import prepare
from stages.settings import PrepareSettings
from tests.places import at

HINDI, TAMIL, SAME = "एक इमारत बनाई गई है।", "ஒரு வீடு கட்டப்பட்டது", "कोई बदलाव नहीं हुआ है"
CHINESE = "新建了一栋房子。"


def settings(root: Path, **changes: Any) -> PrepareSettings:
    vocabulary = {"min_count": 1, **changes.pop("vocabulary", {})}
    values = {"dataset": "levir-cc", "root": str(root), "images": "none", "vocabulary": vocabulary, **changes}
    return parse_section(values, "prepare", PrepareSettings)


def run(root: Path, *captions: str, **changes: Any) -> Path:
    """Prepare one pair a caption, all of the training split and without change flags."""
    root.mkdir()
    images = [
        {"filename": f"{number}.png", "split": "train", "sentences": [{"raw": caption}]}
        for number, caption in enumerate(captions)
    ]
    (root / "LevirCCcaptions.json").write_text(json.dumps({"images": images}))
    return prepare.run(settings(root, **changes), at(prepared=root / "out"), engine=EngineSettings(workers=1))


def test_words_of_indic_captions_stay_whole(tmp_path: Path) -> None:
    output = run(tmp_path / "data", HINDI, TAMIL)
    vocabulary = Vocabulary.load(output / "vocabulary.json")
    assert set(vocabulary.words) == {"एक", "इमारत", "बनाई", "गई", "है", "ஒரு", "வீடு", "கட்டப்பட்டது"}
    assert vocabulary.decode(vocabulary.encode(HINDI)) == HINDI.rstrip("।")
    told = "\n".join(prepare.summary(output))
    assert "flag-unknown: 2 pairs" in told
    assert "no captioned pair is unchanged" in told
    assert "prepare.no_change_sentences.levir-cc" in told


def test_listed_sentences_give_the_flags_and_stay_with_the_prepared_pairs(tmp_path: Path) -> None:
    listed = {"levir-cc": {"hi": [SAME]}}
    output = run(tmp_path / "data", HINDI, f"{SAME}।", "there is no difference", no_change_sentences=listed)
    data = read_prepared(output)
    assert [pair.changed for pair in data.pairs] == [True, False, False]
    assert data.card.no_change["hi"] == (SAME,)
    assert "there is no difference" in data.card.no_change["en"]
    assert "no captioned pair is unchanged" not in "\n".join(prepare.summary(output))


def test_captions_in_characters_are_told(tmp_path: Path) -> None:
    output = run(tmp_path / "data", CHINESE)
    assert set(Vocabulary.load(output / "vocabulary.json").words) == set("新建了一栋房子")
    assert any(line.startswith("caption-in-characters: 1 ") for line in prepare.summary(output))


@pytest.mark.parametrize("rule", ["release", "spaced"])
def test_captions_that_would_be_one_word_stop_the_stage(tmp_path: Path, rule: str) -> None:
    with pytest.raises(DataError, match="one word each") as caught:
        run(tmp_path / "data", CHINESE, vocabulary={"tokens": rule})
    assert "prepare.vocabulary.tokens: words" in str(caught.value.fix)


def test_segmented_captions_are_taken_word_by_word(tmp_path: Path) -> None:
    output = run(tmp_path / "data", "新建 了 一栋 房子 。", vocabulary={"tokens": "spaced"})
    assert set(Vocabulary.load(output / "vocabulary.json").words) == {"新建", "了", "一栋", "房子"}


def test_own_lists_stand_beside_those_of_the_data_sets(tmp_path: Path) -> None:
    own = {"levir-cc": {"hi": [SAME]}, "folder": {"zh": ["没有变化"]}, "dubai-cc": {"en": ["all is calm"]}}
    sentences = settings(tmp_path, no_change_sentences=own).no_change_sentences
    assert sentences["levir-cc"].keys() == {"en", "hi"}
    assert sentences["folder"] == {"zh": ("没有变化",)}
    assert sentences["dubai-cc"] == {"en": ("all is calm",)}
    assert "no change is occurred" in sentences["second-cc"]["en"]


@pytest.mark.parametrize(
    ("own", "message"), [({"levir": {"en": ["x"]}}, "unknown data set"), ({"folder": {"hi": ["।"]}}, "has no word")]
)
def test_lists_that_cannot_be_meant_are_refused(tmp_path: Path, own: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, no_change_sentences=own)
