from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from pipeline.datasets.adapters.levir_cc import NO_CHANGE
from pipeline.datasets.world.captions import Caption
from pipeline.datasets.world.pair import WorldPair
from pipeline.datasets.world.settings import LAND_CLASSES
from tests.datasets.world.sentence_facts import claimed_houses, claimed_place

SPLIT = re.compile(r" (?:and|while) ")


def _single_event_captions(pairs: list[WorldPair]) -> list[tuple[WorldPair, Caption]]:
    """Return every caption of pairs with one event, with its pair."""
    return [(pair, caption) for pair in pairs if len(pair.events) == 1 for caption in pair.captions]


def test_unchanged_pairs_have_the_five_fixed_sentences(world_pairs: list[WorldPair]) -> None:
    for pair in world_pairs:
        if not pair.changed:
            assert tuple(caption.text for caption in pair.captions) == NO_CHANGE
            assert all(caption.triples == () for caption in pair.captions)


def test_the_five_sentences_differ(changed_pairs: list[WorldPair]) -> None:
    for pair in changed_pairs:
        assert len({caption.text for caption in pair.captions}) == 5
        assert not {caption.text for caption in pair.captions} & set(NO_CHANGE)


def test_sentences_are_plain_lower_case_words(changed_pairs: list[WorldPair]) -> None:
    for pair in changed_pairs:
        for caption in pair.captions:
            assert re.fullmatch(r"[a-z-]+( [a-z-]+)*", caption.text), caption.text


def test_vocabulary_and_length_are_like_levir_cc(changed_pairs: list[WorldPair]) -> None:
    captions = [caption.text.split() for pair in changed_pairs for caption in pair.captions]
    words = Counter(word for caption in captions for word in caption)
    lengths = [len(caption) for caption in captions]
    assert 90 <= len(words) <= 200
    assert 8 <= np.mean(lengths) <= 10.5
    assert max(lengths) <= 38
    # No single sentence serves: the most frequent one is rare.
    sentences = Counter(" ".join(caption) for caption in captions)
    assert sentences.most_common(1)[0][1] < 0.03 * len(captions)
    assert len(sentences) > 0.6 * len(captions)


def test_places_agree_with_the_change_mask(changed_pairs: list[WorldPair]) -> None:
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        place = claimed_place(caption.text)
        if place is None:
            continue
        rows, columns = np.nonzero(pair.change)
        x, y = (columns.mean() + 0.5) / len(pair.change), (rows.mean() + 0.5) / len(pair.change)
        # Lawns, driveways and felled trees pull the mask's centroid a little off the houses' one.
        low, high, slack = 0.37, 0.63, 0.09
        bounds = {"left": (0, low), "right": (high, 1), "top": (0, low), "bottom": (high, 1), "center": (low, high)}
        for word, share in zip(place, (x, y), strict=True):
            least, greatest = bounds.get(word, (0, 1))
            assert least - slack <= share <= greatest + slack, (pair.id, caption.text, x, y)
        checked += 1
    assert checked > 80


def test_counts_agree_with_the_objects(changed_pairs: list[WorldPair]) -> None:
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        claim = claimed_houses(caption.text)
        if claim is None or pair.events[0].kind == "swimming pool":
            continue
        changing = set(pair.appeared) | set(pair.disappeared)
        houses = {item.id for date in pair.objects for item in date if item.kind == "house" and item.id in changing}
        assert claim[0] <= len(houses) <= claim[1], (pair.id, caption.text, len(houses))
        checked += 1
    assert checked > 80


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (r"villas?|houses?", {"house"}),
        (r"(?:large|big) building", {"building"}),
        (r"parking lot", {"parking lot"}),
        (r"pond|lake", {"pond"}),
        (r"swimming pool", {"swimming pool"}),
        (r"playground", {"playground"}),
    ],
)
def test_what_a_sentence_names_comes_or_goes(changed_pairs: list[WorldPair], words: str, kinds: set[str]) -> None:
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        # The house beside which a pool is built is there at both dates.
        text = re.sub(r"(?:beside|near|next to) the (?:house|villa)", "", caption.text)
        if not re.search(rf"\b(?:{words})\b", text):
            continue
        changing = set(pair.appeared) | set(pair.disappeared)
        assert kinds & {item.kind for date in pair.objects for item in date if item.id in changing}, caption.text
        checked += 1
    assert checked > 0


def test_roads_come_in_the_number_told(changed_pairs: list[WorldPair]) -> None:
    claims = {r"\ba (?:new |straight |curved |turning |winding |vertical |horizontal )?road\b": 1}
    claims |= {r"\ba crossroad\b": 2, r"\ba t-shaped road\b": 2, r"\btwo (?:parallel |crossing )?roads\b": 2}
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        kinds = {item.id: item.kind for item in pair.objects[1]}
        for pattern, number in claims.items():
            if re.search(pattern, caption.text):
                assert sum(kinds[item] == "road" for item in pair.appeared) == number, caption.text
                checked += 1
    assert checked > 20


def test_trees_that_are_said_to_go_are_gone(changed_pairs: list[WorldPair]) -> None:
    tree, checked = LAND_CLASSES.index("tree"), 0
    for pair, caption in _single_event_captions(changed_pairs):
        if re.search(
            r"\btrees (?:are|have been) (?:removed|cleared|cut down)|\btrees (?:have )?disappear", caption.text
        ):
            removed = (pair.semantic[0] == tree) & (pair.semantic[1] != tree)
            assert removed.mean() > 0.015, (pair.id, caption.text)
            checked += 1
    assert checked > 10


def test_the_ground_is_what_was_there_before(changed_pairs: list[WorldPair]) -> None:
    words = {"on the bareland": "bareland", "on the grassland": "grassland", "in the woods": "tree"}
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        for text, name in words.items():
            if text in caption.text and pair.events[0].appeared:
                new = np.isin(pair.instances[1], pair.events[0].appeared)
                share = (pair.semantic[0][new] == LAND_CLASSES.index(name)).mean()
                assert share > 0.6, (pair.id, caption.text)
                checked += 1
    assert checked > 20


def test_an_old_road_is_there_at_both_dates(changed_pairs: list[WorldPair]) -> None:
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        if re.search(r"(?:along|beside|near|next to|sides of) the roads?\b", caption.text):
            roads = [{item.id for item in date if item.kind == "road"} for date in pair.objects]
            assert roads[0] & roads[1], caption.text
            checked += 1
    assert checked > 20


def test_a_residential_area_has_houses_that_stay(changed_pairs: list[WorldPair]) -> None:
    checked = 0
    for pair, caption in _single_event_captions(changed_pairs):
        if "residential area" in caption.text:
            stay = [item for item in pair.objects[0] if item.kind == "house" and item.id in pair.correspondences]
            assert len(stay) >= 4, caption.text
            checked += 1
    assert checked > 0


@pytest.mark.parametrize("words", [r"widened|wider|expanded", r"extended|longer|lengthened"])
def test_an_altered_road_grows(changed_pairs: list[WorldPair], words: str) -> None:
    road, checked = LAND_CLASSES.index("road"), 0
    for pair, caption in _single_event_captions(changed_pairs):
        if re.search(words, caption.text):
            before, after = ((land == road).sum() for land in pair.semantic)
            assert after > 1.15 * before, caption.text
            assert not pair.appeared, caption.text
            checked += 1
    assert checked > 0


def test_every_caption_carries_its_triples(changed_pairs: list[WorldPair]) -> None:
    families = {"appear", "disappear", "replace", "spatial", "other"}
    for pair in changed_pairs:
        for caption in pair.captions:
            assert caption.triples
            for triple in caption.triples:
                assert triple.family in families
                assert re.fullmatch(r"[a-z]+(-[a-z]+)*", triple.relation)
                for entity in (triple.head, triple.tail):
                    named = re.search(rf"\b{entity}s?\b", caption.text)
                    assert named or (entity == "scene" and triple.tail == "scene"), (caption.text, triple)
                # The verb's lemma is in the sentence, but for the ways to say replace and irregular forms.
                stem = triple.relation.split("-")[0]
                if triple.relation != "replace" and stem not in {"build", "cut", "dry", "tear", "dig"}:
                    assert re.search(rf"\b{stem[:-1]}", caption.text), (caption.text, triple)


def test_a_caption_names_all_events_it_claims(changed_pairs: list[WorldPair]) -> None:
    double = [pair for pair in changed_pairs if len(pair.events) == 2]
    assert double
    for pair in double:
        assert sum(caption.events == (0, 1) for caption in pair.captions) >= 2
        for caption in pair.captions:
            if len(caption.events) == 2:
                assert SPLIT.search(caption.text)


@pytest.mark.parametrize(
    ("pattern", "new_first"),
    [(r"^(.+?) (?:is|are|has been|have been) replaced by (.+)$", False), (r"^(.+?) replaces? (.+)$", True)],
)
def test_replacements_put_the_new_thing_first(changed_pairs: list[WorldPair], pattern: str, new_first: bool) -> None:
    checked = 0
    for _, caption in _single_event_captions(changed_pairs):
        match = re.match(pattern, caption.text)
        if match is None:
            continue
        new, old = match.groups() if new_first else reversed(match.groups())
        (triple,) = caption.triples
        assert triple.relation == "replace"
        assert re.search(rf"\b{triple.head}s?\b", new)
        assert re.search(rf"\b{triple.tail}s?\b", old)
        checked += 1
    assert checked > 5
