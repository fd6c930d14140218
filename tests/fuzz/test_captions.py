"""Mutated caption files through every reader of captions: success or the project's own error, nothing else, no hang."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.caption_graph.extraction import check_language, read_text_captions
from pipeline.caption_graph.merging import read_merges
from pipeline.caption_graph.settings import ExtractionSettings, RulesSettings
from pipeline.caption_graph.triples.records import read_triples, write_triples
from pipeline.caption_graph.triples.rules import RulesExtractor
from pipeline.config import parse_section
from pipeline.datasets.adapters.second_cc import CAPTION_FILES as SECOND_FILES
from pipeline.datasets.audit import Audit
from pipeline.datasets.caption_files import read_captions
from pipeline.datasets.checks import check_captions
from pipeline.datasets.records import Pair, read_prepared, write_prepared
from pipeline.datasets.settings import VocabularySettings
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from stages import evaluate, prepare
from stages.settings import EvaluateSettings, PrepareSettings
from tests.datasets import fakes
from tests.fuzz import mutators
from tests.fuzz.reading import Tally
from tests.places import at

SEED: Final = 13
ENGINE: Final = EngineSettings(device="cpu", workers=1)
Write = Callable[[bytes], None]
RULES = RulesExtractor(RulesSettings())

CAPTIONS: Final = (
    "A house is built near the road, and two villas appear on the bareland.",
    "the trees have been replaced by a parking lot with many cars on both sides of the road",
    "there is no difference",
    "नदी के पास एक इमारत बनाई गई है",
    "在道路旁边新建了两栋房子。",
)


class Case:
    """One kind of file: its sound content, and what reads it.

    Attributes:
        root: A folder of its own.
        path: The file that is mutated.
        document: Its content: JSON, or lines of text.
        read: Reads it as the project does.
    """

    def __init__(self, root: Path, path: Path, document: Any, read: Callable[[], object]) -> None:
        self.root, self.path, self.document, self.read = root, path, document, read

    @property
    def is_text(self) -> bool:
        return isinstance(self.document, list) and self.path.suffix != ".json"

    def mutate(self, rng: random.Random) -> bytes:
        """Return a mutated content: a third of bytes, the others of structure."""
        text = "\n".join(self.document) + "\n" if self.is_text else json.dumps(self.document, ensure_ascii=False)
        if rng.random() < 0.33:
            return mutators.mutated_bytes(text.encode(), rng)
        if not self.is_text:
            return mutators.encoded(mutators.mutated_json(self.document, rng), rng)
        if self.path.suffix == ".jsonl" and rng.random() < 0.7:
            place = rng.randrange(len(self.document))
            line = mutators.mutated_json(json.loads(self.document[place]), rng)
            lines = [line if number == place else other for number, other in enumerate(self.document)]
            return mutators.encoded("\n".join(lines) + "\n", rng)
        cells = (lambda line: line.split(",")) if self.path.suffix == ".csv" else None
        return mutators.encoded(mutators.mutated_lines(self.document, rng, cells=cells), rng)


def prepared_case(root: Path, dataset: str, name: str, document: Any, **settings: Any) -> Case:
    """Return a case that runs the stage `prepare` on a data set."""
    vocabulary = {"min_count": 1, "max_length": 200, "too_long": "truncate"}
    section = parse_section(
        {"dataset": dataset, "root": str(root), "vocabulary": vocabulary, **settings}, "prepare", PrepareSettings
    )
    output = root.parent / f"{root.name}-prepared"

    def read() -> None:
        prepare.run(section, at(prepared=output), engine=ENGINE)
        data = read_prepared(output)
        vocabulary = Vocabulary.load(data.vocabulary_path)
        for pair in data.pairs:
            for caption in pair.captions:
                vocabulary.decode(vocabulary.encode(caption))
        assert prepare.summary(output)

    return Case(root, root / name, document, read)


def folder_root(root: Path) -> Path:
    """Write two pairs of images in two folders."""
    fakes.levir_cc(root.parent / "levir")
    for date in ("A", "B"):
        for number in (1, 2):
            source = root.parent / "levir" / "images" / "train" / date / f"train_00000{number}.png"
            (root / date).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / date / f"p{number}.png")
    return root


def listed(form: str) -> list[str]:
    """Return a list of two pairs as lines of CSV or JSONL."""
    rows = [
        {"before": f"A/p{n}.png", "after": f"B/p{n}.png", "id": f"x{n}", "split": "train", "changed": n - 1}
        | {"caption_1": CAPTIONS[n], "caption_2": CAPTIONS[-n]}
        for n in (1, 2)
    ]
    if form == "jsonl":
        return [json.dumps(row, ensure_ascii=False) for row in rows]
    header = ",".join(rows[0])
    return [header, *(",".join(f'"{value}"' for value in row.values()) for row in rows)]


def extracted(path: Path) -> None:
    """Read captions and extract their triples, as `sagecc graph extract` does."""
    captions = read_text_captions(path)
    check_language(captions, ExtractionSettings(), where=path)
    triples = RULES.extract(captions)
    assert read_triples(write_triples(path.with_name("triples.jsonl"), triples)) == triples


def evaluation_cases(root: Path) -> dict[str, Case]:
    """Return cases of the files that `evaluate` reads: captions, provenance, prepared pairs, vocabulary."""
    root.mkdir()
    pairs = [
        Pair(id=f"{split}{n}", split=split, before="a", after="b", captions=CAPTIONS[n : n + 2], changed=n != 2)
        for split in ("train", "test")
        for n in range(4)
    ]
    prepared, captions = root / "prepared", root / "captions"
    write_prepared(prepared, "folder", str(root), pairs, images=False)
    build_vocabulary(CAPTIONS, VocabularySettings(min_count=1), "folder").save(prepared / "vocabulary.json")
    captions.mkdir()
    said = [{"image_id": f"test{n}", "caption": CAPTIONS[n], "score": -1.0} for n in range(4)]
    documents = {captions / "provenance.json": {"split": "test", "left_out": {}}, captions / "seed-1.json": said}
    for path, document in documents.items():
        path.write_text(json.dumps(document))
    for name in ("dataset.json", "vocabulary.json"):
        documents[prepared / name] = json.loads((prepared / name).read_text())
    documents[prepared / "pairs.jsonl"] = (prepared / "pairs.jsonl").read_text().splitlines()
    paths = at(prepared=prepared, captions=captions, metrics=root / "metrics.json", plots=root / "plots")
    settings = EvaluateSettings(meteor="never", constant_candidates=5, examples=0)

    def read() -> None:
        evaluate.run(settings, paths, engine=ENGINE)

    def read_pairs() -> None:
        # Pairs that were altered are refused by their hash; here the hash is that of the mutated file.
        card = documents[prepared / "dataset.json"]
        digest = sha256_file(prepared / "pairs.jsonl")
        (prepared / "dataset.json").write_text(json.dumps(card | {"pairs_sha256": digest}))
        try:
            read()
        finally:
            (prepared / "dataset.json").write_text(json.dumps(card))

    return {
        f"evaluate {path.name}": Case(root, path, document, read_pairs if path.name == "pairs.jsonl" else read)
        for path, document in documents.items()
    }


@pytest.fixture
def cases(tmp_path: Path, no_java: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Case]:
    # The picture of the scores takes longer than all else together, and reads nothing of the files.
    monkeypatch.setattr(evaluate, "draw_scores", lambda report, path: None)
    levir = {"images": [*fakes.levir_entries()[:4], fakes.levir_entries()[4] | {"changeflag": None}]}
    levir["images"][0]["sentences"][0]["raw"] = CAPTIONS[3]
    levir["images"][1]["sentences"][0]["raw"] = CAPTIONS[4]
    for name in ("levir", "whu", "dubai", "second"):
        (tmp_path / name).mkdir()
    bare = ("filename", "sentences")
    dubai = {"images": [{key: image[key] for key in bare} for image in levir["images"]]}
    for name in ("Validation_Dubai_CC.json", "Test_Dubai_CC.json"):
        (tmp_path / "dubai" / name).write_text(json.dumps({"images": [dubai["images"][0] | {"filename": name}]}))
    second = tmp_path / "second" / SECOND_FILES[0]

    def read_second() -> None:
        pairs = [
            Pair(id=str(number), split=entry.split or "train", before="a", after="b", captions=entry.captions)
            for number, entry in enumerate(read_captions(second))
        ]
        check_captions(pairs, VocabularySettings(too_long="truncate"), Audit())

    dataless = {"images": "none"}
    pairs = folder_root(tmp_path / "own")
    lists = {form: folder_root(tmp_path / form / "own") for form in ("csv", "jsonl")}
    merges = {"entities": {"house": ["houses", "home"]}, "relations": {"build": ["construct"]}}
    own = {"images": [{"filename": f"p{n}.png", "split": "train", "sentences": [{"raw": CAPTIONS[n]}]} for n in (1, 2)]}
    texts = tmp_path / "texts"
    texts.mkdir()
    return {
        "levir-cc": prepared_case(tmp_path / "levir", "levir-cc", "LevirCCcaptions.json", levir, **dataless),
        "whu-cdc": prepared_case(tmp_path / "whu", "whu-cdc", "whuCCcaptions.json", levir, **dataless),
        "dubai-cc": prepared_case(tmp_path / "dubai", "dubai-cc", "Train_Dubai_CC.json", dubai, **dataless),
        "second-cc": Case(tmp_path / "second", second, levir, read_second),
        "own JSON": prepared_case(pairs, "folder", "own.json", own, captions="own.json"),
        **{
            form: prepared_case(root, "folder", f"pairs.{form}", listed(form), captions=f"pairs.{form}")
            for form, root in lists.items()
        },
        "lines": Case(texts, texts / "captions.txt", list(CAPTIONS), lambda: extracted(texts / "captions.txt")),
        "extract JSON": Case(texts, texts / "captions.json", levir, lambda: extracted(texts / "captions.json")),
        "merges": Case(texts, texts / "merges.json", merges, lambda: read_merges(texts / "merges.json")),
        **evaluation_cases(tmp_path / "evaluation"),
    }


def run(cases: dict[str, Case], files: int, *, start: int = 0) -> Tally:
    """Read `files` mutated files, of all kinds in turn."""
    tally = Tally()
    names = list(cases)
    for number in range(start, start + files):
        name = names[number % len(names)]
        case = cases[name]
        sound = case.path.read_bytes() if case.path.is_file() else None
        case.path.write_bytes(case.mutate(mutators.generator(SEED, number)))
        tally.try_to(case.read, f"file {number} of seed {SEED}, {name}")
        if sound is not None:
            case.path.write_bytes(sound)
    return tally


def test_sound_files_are_read(cases: dict[str, Case]) -> None:
    for name, case in cases.items():
        lines = case.document if case.is_text else [json.dumps(case.document)]
        case.path.write_text("\n".join(lines) + "\n")
        tally = Tally()
        tally.try_to(case.read, name)
        assert tally.outcomes["read"] == 1, (name, tally.last)


def test_five_hundred_mutated_caption_files(cases: dict[str, Case]) -> None:
    tally = run(cases, 500)
    assert tally.outcomes.total() == 500
    assert tally.outcomes["read"] > 50
    assert tally.outcomes["DataError"] > 100


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_caption_files(cases: dict[str, Case]) -> None:
    tally = run(cases, 10_000, start=500)
    print(dict(tally.outcomes), tally.slowest)
    assert tally.outcomes.total() == 10_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("levir-cc", '{"images": [], "imgid": ' + "1" * 5000 + "}"),
        ("jsonl", '{"before": "A/p1.png", "after": "B/p1.png", "id": ' + "1" * 5000 + "}"),
        ("csv", "before,after,caption" + "1" * 5000 + "\nA/p1.png,B/p1.png,a house\n"),
        ("evaluate vocabulary.json", '{"schema": 1, "dataset": "\\ud800", "settings": {}, "specials": [], "words": [], '
         '"sha256": ""}'),
        ("evaluate seed-1.json", '[{"image_id": "test0", "caption": "\\ud800 house"}]'),
        ("lines", "a house is near " + "'s" * 100_000),
        ("lines", "a house is built and " * 2000),
        ("lines", "a" + "\u0301\u0316" * 100_000),
        ("extract JSON", "[" * 100_000),
    ],
)  # fmt: skip
def test_files_that_once_broke_a_reader(cases: dict[str, Case], name: str, content: str) -> None:
    cases[name].path.write_text(content)
    tally = Tally()
    tally.try_to(cases[name].read, name)
    assert tally.outcomes.total() == 1


def test_mutations_are_the_same_everywhere(cases: dict[str, Case]) -> None:
    case = cases["levir-cc"]
    assert case.mutate(mutators.generator(1, 2)) == case.mutate(mutators.generator(1, 2))
    assert len({case.mutate(mutators.generator(1, number)) for number in range(50)}) > 45
