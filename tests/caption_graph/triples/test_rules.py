from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.caption_graph.triples.normalisation import word_set
from pipeline.caption_graph.triples.records import Caption
from pipeline.caption_graph.triples.rules import RulesExtractor

Keys = Callable[[str], set[tuple[str, str, str]]]


def triples(text: str) -> set[tuple[str, str, str]]:
    """Read "house build-along road; parking_lot appear scene"."""
    keys = set()
    for statement in filter(None, (entry.strip() for entry in text.split(";"))):
        head, relation, tail = (word.replace("_", " ") for word in statement.split())
        keys.add((head, relation, tail))
    return keys


CONSTRUCTIONS = {
    "coordinated subjects": (
        "A depot and five silos appear on the bare land.",
        "depot appear-on bareland; silo appear-on bareland",
    ),
    "coordinated places": ("Huts were erected on the meadow and the lawn.", "hut erect-on meadow; hut erect-on lawn"),
    "coordination on both sides": (
        "The orchard and the ponds were replaced by a stadium and two car parks.",
        "stadium replace orchard; stadium replace pond; car_park replace orchard; car_park replace pond",
    ),
    "coordinated clauses": (
        "Many shrubs have been cut down and a bridge and a jetty are built.",
        "shrub cut-down scene; bridge build scene; jetty build scene",
    ),
    "coordinated verbs": (
        "The hangars are demolished and replaced by a garden.",
        "hangar demolish scene; garden replace hangar",
    ),
    "passive": ("A gymnasium has been constructed near the canal.", "gymnasium construct-near canal"),
    "passive of surrounding": (
        "A hotel surrounded by palms shows up.",
        "palm surround hotel; hotel show-up scene",
    ),
    "covered with": ("The dunes are covered with moss.", "moss cover dune"),
    "replaces": ("A warehouse replaces the two barns.", "warehouse replace barn"),
    "takes the place of": ("A market takes the place of the old barn.", "market replace barn"),
    "in place of": ("Tents appear in place of some bushes.", "tent replace bush"),
    "instead of": ("A cinema was built instead of the barn.", "cinema replace barn"),
    "turned into": ("The quarry has been turned into a lake.", "lake replace quarry"),
    "becomes": ("The gravel track becomes a highway.", "highway replace track"),
    "developed into": ("The prairie is developed into a village.", "village replace prairie"),
    "changed from": ("The yard changed from a lawn to a pool.", "pool replace lawn"),
    "built to replace": ("Three towers are built to replace the chapel.", "tower replace chapel"),
    "replacing": ("A harbour appears at the bottom replacing the beach.", "harbour replace beach"),
    "removed to build": ("Oaks are removed to build a chapel.", "oak remove scene; chapel build scene"),
    "making room": (
        "Some poplars are felled to make room for a runway.",
        "poplar fell scene; runway replace poplar",
    ),
    "places of a replacement": (
        "The bushes along the river are replaced by chalets.",
        "chalet replace bush; chalet along river",
    ),
    "with … built along": (
        "A street with many shops built along appears.",
        "street appear scene; shop build-along street",
    ),
    "with … on both sides": (
        "A canal with poplars on both sides is dug in the field.",
        "canal dig-in field; poplar along canal",
    ),
    "with … around it": ("A pond with benches around it appears.", "pond appear scene; bench around pond"),
    "with, after the verb": (
        "An avenue is built with rows of kiosks built along.",
        "avenue build scene; kiosk build-along avenue",
    ),
    "with, plain": ("A mansion with a swimming pool appears.", "mansion appear scene; mansion with swimming_pool"),
    "with, then a second subject": (
        "A ring road with some branches and some shops are built.",
        "road build scene; road with branch; shop build scene",
    ),
    "relative clause": (
        "The sheds which were built along the river are removed.",
        "shed build-along river; shed remove scene",
    ),
    "relative clause with that": (
        "A lane that leads to the farm appears.",
        "lane lead-to farm; lane appear scene",
    ),
    "reduced relative clause": (
        "A lane connecting the two villages has been built.",
        "lane connect village; lane build scene",
    ),
    "several locatives": (
        "A cottage appears in the forest beside the lake at the end of the path.",
        "cottage appear-in forest; cottage appear-beside lake; cottage appear-at path",
    ),
    "place before the verb": ("The tents along the beach have vanished.", "tent vanish-along beach"),
    "place first": ("In the centre of the desert, an airport is built.", "airport build-in desert"),
    "inversion": ("On both sides of the river stand many cranes.", "crane stand-along river"),
    "one side": ("Two silos are built on the left side of the barn.", "silo build-beside barn"),
    "intransitive": ("Four cottages vanish.", "cottage vanish scene"),
    "place in the picture": ("A fountain appears in the top left corner of the scene.", "fountain appear scene"),
    "disappears from": ("The huts on the meadow disappear.", "hut disappear-from meadow"),
    "there is": ("There is now a school on the hill.", "school appear-on hill"),
    "there is no more": ("There are no more boats on the lake.", "boat disappear-from lake"),
    "gone": ("The greenhouse is gone.", "greenhouse disappear scene"),
    "change of a thing": ("The avenue has been widened.", "avenue widen scene"),
    "becoming an adjective": ("The lawn becomes greener.", "lawn become scene"),
    "it": (
        "A square appears and several shops are built around it.",
        "square appear scene; shop build-around square",
    ),
    "them": (
        "Two lanes are paved in the forest and cabins are built on both sides of them.",
        "lane pave-in forest; cabin build-along lane",
    ),
    "ones": ("The old barns are replaced by new ones.", "barn replace barn"),
    "ones, elsewhere": ("A kiosk appears near the existing ones.", "kiosk appear-near kiosk"),
    "measures": ("A large number of rows of vines are planted.", "vine plant scene"),
    "clause without a verb": ("Trees removed and a school built.", "tree remove scene; school build scene"),
    "while": ("A dam appears while the swamp dries.", "dam appear scene; swamp dry scene"),
    "picture as a whole": ("This area has been urbanised.", "area urbanise scene"),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_constructions(name: str, keys: Keys) -> None:
    text, expected = CONSTRUCTIONS[name]
    assert keys(text) == triples(expected)


@pytest.mark.parametrize(
    "text",
    ["The two scenes seem identical.", "No change has occurred.", "Nothing has changed in this area.", "", " . ", "🏠"],
)
def test_sentences_of_no_change_have_no_triples(text: str, keys: Keys) -> None:
    assert keys(text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "houses",
        "appear",
        "Eine neue Straße wurde neben dem See gebaut.",
        "une maison apparaît près de la forêt",
        "道路两旁建起了许多房屋",
        "дом появился у дороги",
    ],
)
def test_one_word_and_other_languages_state_nothing(text: str, keys: Keys) -> None:
    assert keys(text) == set()


def test_triples_name_caption_engine_family_and_span(rules: RulesExtractor) -> None:
    text = "In the north, two huts appear on the bare land and a tent is removed."
    triples = rules.extract([Caption(pair="x", sentence=4, text=text)])
    assert [(t.pair, t.sentence, t.engine, t.family) for t in triples] == [
        ("x", 4, "rules", "appear"),
        ("x", 4, "rules", "disappear"),
    ]
    assert [text[slice(*t.span)] for t in triples] == ["two huts appear on the bare land", "a tent is removed"]


def test_captions_keep_their_order_and_repeat_their_triples(rules: RulesExtractor) -> None:
    texts = ["A hut appears.", "Nothing has changed.", "A tent vanishes.", "A hut appears."]
    triples = rules.extract([Caption(pair="p", sentence=n, text=text) for n, text in enumerate(texts)])
    assert [(t.sentence, t.head) for t in triples] == [(0, "hut"), (2, "tent"), (3, "hut")]
    assert rules.extract([]) == []


def test_a_statement_is_made_once_per_caption(rules: RulesExtractor) -> None:
    triples = rules.extract([Caption(pair="p", sentence=0, text="A hut appears and a hut appears.")])
    assert len(triples) == 1


_WORDS = word_set(
    "a the two some many huts road trees it them ones of with on both sides along by and , . which that is are been "
    "built appear replaced into replacing to surround left place half not no there more one change turn cross lots "
    "scene corner area new 's while from for make room was urbanized connecting together in"
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(sorted(_WORDS)), max_size=40).map(" ".join)))
def test_any_text_can_be_read(text: str) -> None:
    extractor = _shared()
    first = extractor.extract([Caption(pair="p", sentence=0, text=text)])
    assert first == extractor.extract([Caption(pair="p", sentence=0, text=text)])
    for triple in first:
        assert triple.span[1] <= len(text)
        assert triple.head == triple.head.lower()
        assert " " not in triple.relation


_EXTRACTORS: list[RulesExtractor] = []


def _shared() -> RulesExtractor:
    if not _EXTRACTORS:
        _EXTRACTORS.append(RulesExtractor())
    return _EXTRACTORS[0]


@pytest.mark.parametrize("piece", ["with a road ", "a road connecting ", "built ", "and a "])
def test_endless_nesting_is_read_without_harm(piece: str, rules: RulesExtractor) -> None:
    rules.extract([Caption(pair="p", sentence=0, text="a hut appears " + piece * 2000)])


def test_spacy_is_loaded_with_the_first_caption_only() -> None:
    code = (
        "import sys; from pipeline.caption_graph.triples.rules import RulesExtractor; RulesExtractor(); "
        "assert 'spacy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
