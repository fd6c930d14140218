"""Normal form of triples that every engine follows, and the function that brings triples to it: `canonical`.

Entities are lower-case singular noun heads without counts, measures and adjectives; a pair of words that names a class
is kept ("swimming pool", "parking lot", "residential area"); "bare land" is "bareland". Parts of the picture ("the top
left of the scene", "in the corner") are no entities; the picture itself is "scene".

Relations are lemmas joined by hyphens, in the active voice.

=====================================================  =================================================
the caption says                                       the triples
=====================================================  =================================================
A road and two houses appear on the bareland           ⟨road; appear-on; bareland⟩, ⟨house; appear-on; bareland⟩
Houses have been built on both sides of the road       ⟨house; build-along; road⟩
A villa is built on the left side of the road          ⟨villa; build-beside; road⟩
A house is built at the end of the road                ⟨house; build-at; road⟩
A villa appears in the woods near the road             ⟨villa; appear-in; woods⟩, ⟨villa; appear-near; road⟩
The trees along the road are removed                   ⟨tree; remove-along; road⟩
The houses on the grass are removed                    ⟨house; remove-from; grass⟩
A house appears; … in the upper left corner            ⟨house; appear; scene⟩
Trees are replaced by a house; a house takes the       ⟨house; replace; tree⟩
place of trees; trees turned into a house;
a house is built in place of trees
Trees near the road are replaced by houses             ⟨house; replace; tree⟩, ⟨house; near; road⟩
A road with villas built along appears                 ⟨road; appear; scene⟩, ⟨villa; build-along; road⟩
A road with villas on both sides is built on grass     ⟨road; build-on; grass⟩, ⟨villa; along; road⟩
A villa with a swimming pool appears                   ⟨villa; appear; scene⟩, ⟨villa; with; swimming pool⟩
A house surrounded by trees appears                    ⟨house; appear; scene⟩, ⟨tree; surround; house⟩
A road connecting the houses has been built            ⟨road; build; scene⟩, ⟨road; connect; house⟩
The road has been widened                              ⟨road; widen; scene⟩
There are houses on the bareland                       ⟨house; appear-on; bareland⟩
The trees are gone; there are no more trees            ⟨tree; disappear; scene⟩
Trees are removed to build a house                     ⟨tree; remove; scene⟩, ⟨house; build; scene⟩
Houses are built on the grass to replace the trees     ⟨house; build-on; grass⟩, ⟨house; replace; tree⟩
Houses are built to replace the trees                  ⟨house; replace; tree⟩
This area has been urbanised                           ⟨area; urbanise; scene⟩
The two scenes seem identical                          none
=====================================================  =================================================

Every place that belongs to the subject of an event, before the verb or after it, is a tail of that event; with
replacements, places become spatial statements about what is new. A pronoun is replaced by its referent; "with" is
stated only where nothing else links the companion to its host. Prepositions with one meaning have one name
(`SAME_PREPOSITION`). The family follows from the relation (`family_of`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from pipeline.caption_graph.triples.records import Family
from pipeline.datasets.words import spaced_words


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


_NOUNS: Final = {
    "wood": "woods",
    "woods": "woods",
    "crossroads": "crossroad",
    "grass": "grass",
    "leaves": "leaf",
    "grounds": "ground",
    "roofs": "roof",
    "greenhouses": "greenhouse",
    "leaf": "leaf",
    "bus": "bus",
    "buses": "bus",
    "stadiums": "stadium",
    "premises": "premises",
    "houses": "house",
    "vegetations": "vegetation",
    "outskirts": "outskirt",
    "surroundings": "surrounding",
    "courses": "course",
    "axes": "axis",
    "bases": "base",
}
_VERBS: Final = {
    "built": "build",
    "builded": "build",
    "bulit": "build",
    "is": "be",
    "are": "be",
    "was": "be",
    "were": "be",
    "been": "be",
    "being": "be",
    "has": "have",
    "had": "have",
    "having": "have",
    "risen": "rise",
    "rose": "rise",
    "grown": "grow",
    "grew": "grow",
    "shown": "show",
    "became": "become",
    "become": "become",
    "felled": "fell",
    "cut": "cut",
    "fallen": "fall",
    "found": "find",
    "leaves": "leave",
    "left": "leave",
    "leveled": "level",
    "levelled": "level",
    "situated": "situate",
    "saw": "see",
    "seen": "see",
    "leading": "lead",
    "led": "lead",
    "lay": "lay",
    "lain": "lie",
    "lying": "lie",
    "dying": "die",
    "paved": "pave",
    "shrunk": "shrink",
    "shrank": "shrink",
    "wound": "wind",
    "ground": "grind",
    "bypassed": "bypass",
    "bypasses": "bypass",
    "crisscross": "crisscross",
    "crisscrosses": "crisscross",
}


def load_lemmas() -> None:
    """Read the lemma tables now instead of with the first word, which takes a second or two."""
    _tables()


@lru_cache(maxsize=1)
def _tables() -> tuple[dict[str, list[str]], dict[str, list[str]], list[list[str]], frozenset[str]]:
    from spacy.lookups import load_lookups

    tables = load_lookups("en", ["lemma_exc", "lemma_rules", "lemma_index"])
    exceptions = tables.get_table("lemma_exc")
    infinitives = frozenset(tables.get_table("lemma_index")["verb"])
    return exceptions["noun"], exceptions["verb"], tables.get_table("lemma_rules")["verb"], infinitives


@lru_cache(maxsize=65536)
def noun_lemma(word: str) -> str:
    """Return the singular of a lower-case noun: "houses" is house, "woods" stays woods."""
    if word in _NOUNS:
        return _NOUNS[word]
    if "-" in word:
        first, last = word.rsplit("-", 1)
        return f"{first}-{noun_lemma(last)}" if last else word
    exceptions = _tables()[0].get(word)
    if exceptions:
        return exceptions[0]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "zes", "ches", "shes")) and not word.endswith(("houses", "axes", "ases")):
        return word[:-2]
    return word[:-1]


@lru_cache(maxsize=65536)
def verb_lemma(word: str) -> str:
    """Return the infinitive of a lower-case verb form: "built" is build, "disappears" is disappear."""
    if word in _VERBS:
        return _VERBS[word]
    _, exceptions, endings, infinitives = _tables()
    if word in exceptions:
        return exceptions[word][0]
    if word in infinitives:
        return word
    for ending, infinitive in endings:
        stem = word[: -len(ending)] + infinitive
        if word.endswith(ending) and stem in infinitives:
            return stem
    return word


SCENE: Final = "scene"
"""Tail of a statement without a second entity, and the entity of words for the whole picture."""

SCENE_WORDS: Final = word_set("scene scenery image picture photo photograph screen view map frame")
PLAIN_PLACES: Final = word_set("area region place zone location territory")
"""Words that mean the scene alone ("in this area") and an entity with another word ("green area")."""

PARTS: Final = word_set(
    "side part corner edge end middle center centre top bottom left right half quarter third front rest border "
    "boundary upper lower lower-left lower-right upper-left upper-right bottom-left bottom-right top-left top-right "
    "north south east west northeast northwest southeast southwest remainder portion section fringe foot periphery "
    "size length height direction position level angle surface width shape"
)
"""Parts of the picture or of an entity, which are no entities: "corner of the road" is the road."""

NUMBERS: Final = word_set("one two three four five six seven eight nine ten")
MEASURES: Final = NUMBERS | word_set(
    "complex row line group number lot piece cluster series set batch couple pair variety amount majority plenty "
    "patch bunch quantity mass clump array tract strip stretch expanse bit deal handful dozen column layer kind type "
    "circle most some many several few all both each any none hundred "
    "thousand half part quarter majority rest remainder"
)
"""Words that count or measure their "of" phrase: "rows of houses" is the houses."""

REFERRING: Final = word_set(
    "it they them its their this that these those one ones other others another which who whom what something "
    "everything nothing anything all some many more most both each there"
)
"""Words that refer to another mention."""

_COUNTS: Final = NUMBERS | word_set("several few")
_DETERMINERS: Final = word_set("the this that whole entire these those its same")

_STOPS: Final = word_set(
    "of in on at along alongside near beside beneath between among around by with from to into through across behind "
    "above below under over inside outside within opposite for"
)

_CLASSES: Final = {
    "parking": "lot space area",
    "car": "park",
    "swimming": "pool",
    "water": "pool tower tank park",
    "storage": "tank room",
    "oil": "tank",
    "residential": "area district community quarter zone complex block",
    "industrial": "area zone park complex",
    "commercial": "area",
    "villa": "area",
    "housing": "estate area development",
    "urban": "area",
    "service": "area",
    "teaching": "area building",
    "construction": "site area",
    "building": "site complex",
    "open": "space",
    "green": "space area belt land",
    "vacant": "lot",
    "street": "block",
    "city": "block",
    "road": "network",
    "traffic": "circle light",
    "basketball": "court field",
    "tennis": "court",
    "volleyball": "court",
    "football": "court field pitch",
    "soccer": "field pitch",
    "baseball": "field",
    "sports": "field ground court venue",
    "playing": "field ground",
    "golf": "course",
    "amusement": "park",
    "race": "track course",
    "running": "track",
    "power": "tower station plant grid",
    "gas": "station",
    "train": "station",
    "bus": "station stop",
    "railway": "station line",
    "shopping": "mall center centre",
    "office": "building",
    "apartment": "building block",
    "telegraph": "pole",
    "utility": "pole",
    "solar": "panel",
    "palm": "island",
}
COMPOUNDS: Final = frozenset((first, last) for first, lasts in _CLASSES.items() for last in lasts.split())
"""Pairs of words, the second in the singular, that name one class."""

FUSED: Final = {
    ("bare", "land"): "bareland",
    ("bare", "ground"): "bareland",
    ("bare", "soil"): "bareland",
    ("bare", "area"): "bareland",
    ("waste", "land"): "wasteland",
    ("grass", "land"): "grassland",
    ("wood", "land"): "woodland",
    ("woods", "land"): "woodland",
    ("desert", "area"): "desert",
    ("forest", "area"): "forest",
    ("forest", "land"): "forest",
    ("farm", "land"): "farmland",
    ("cross", "road"): "crossroad",
    ("road", "side"): "roadside",
    ("play", "ground"): "playground",
    ("t", "junction"): "t-junction",
    ("round", "about"): "roundabout",
    ("ware", "house"): "warehouse",
    ("green", "house"): "greenhouse",
}
"""Classes that annotators write in two words or in one."""


def normalise_entity(phrase: str) -> str | None:
    """Return the entity of a noun phrase.

    Articles, counts, measures ("two rows of") and adjectives are dropped; the head noun becomes singular; a pair of
    words that names a class is kept (`COMPOUNDS`) or is fused (`FUSED`). What follows a preposition or a
    comma is left out, except after "of", where the phrase is only a part or a measure of what follows.

    Returns:
        The entity; `SCENE` for the whole picture; None for a part of the picture ("the top left"), a word that refers
        to another mention ("them"), and a phrase without a word.
    """
    words = list(spaced_words(phrase.split(",")[0]))
    for position, word in enumerate(words):
        if word in _STOPS and position > 0:
            words, after = words[:position], words[position + 1 :]
            if word == "of" and after and noun_lemma(words[-1]) in MEASURES | PARTS:
                return normalise_entity(" ".join(after))
            break
    return entity_of(words)


def entity_of(words: list[str]) -> str | None:
    """Return the entity of a noun phrase without prepositions, given its words; see `normalise_entity`."""
    if not words:
        return None
    lemma = noun_lemma(words[-1])
    if len(words) > 1:
        pair = words[-2], lemma
        if pair in FUSED:
            return FUSED[pair]
        if pair in COMPOUNDS:
            return f"{pair[0]} {lemma}"
    if lemma in SCENE_WORDS:
        return SCENE
    if lemma in PLAIN_PLACES and all(word in _DETERMINERS for word in words[:-1]):
        return SCENE
    if lemma in PARTS or words[-1] in REFERRING or lemma in _COUNTS or not any(c.isalpha() for c in lemma):
        return None
    return lemma


REPLACE: Final = "replace"

APPEAR_VERBS: Final = word_set(
    "appear build construct erect add emerge show show-up create establish complete finish develop form plant install "
    "arise rise come come-out come-up grow grow-up spring-up pop-up rebuild reconstruct make put place pave edify "
    "realize realise lay set-up occur exist pile stack start produce open bring arrive generate cultivate introduce "
    "put-up pull-up appear-up increase-up found dig excavate stand-up build-up"
)
DISAPPEAR_VERBS: Final = word_set(
    "disappear vanish remove demolish destroy clear cut cut-down cut-off fell fade tear-down pull-down knock-down "
    "dismantle eliminate wither die dry dry-up bulldoze lose raze erase go-away move-away take-away wipe-out clear- "
    "away clear-up clear-out chop chop-down take-down fall deforest delete uproot remove-away pull-out"
)
REPLACE_VERBS: Final = word_set("replace substitute")
BECOME_VERBS: Final = word_set(
    "become turn turn-into change-into change-to convert transform transition evolve turn-to"
)
"""Verbs whose subject is replaced: "X becomes Y", "X turned into Y" is ⟨Y; replace; X⟩."""

SPATIAL_VERBS: Final = word_set(
    "surround connect link cross intersect lead run divide separate locate situate arrange distribute scatter line "
    "stand lie cover fill occupy join pass go stretch wind adjoin face border enclose circle bypass converge branch "
    "attach gather concentrate sit intertwine crisscross overlap flank contain include have consist compose space "
    "park live remain meet merge traverse align dot encircle abut touch spread interweave cluster lean part reach "
    "belong bound frame parallel stagger parallel-to leave interlace intersperse flow tower overlook serve be"
)
KNOWN_VERBS: Final = APPEAR_VERBS | DISAPPEAR_VERBS | REPLACE_VERBS | BECOME_VERBS | SPATIAL_VERBS
PREPOSITIONS: Final = word_set(
    "on in at along near beside next-to around between among behind in-front-of by from to into through across above "
    "below under over opposite parallel-to with outside against beyond towards down up off away-from of as without "
    "after before beneath underneath adjacent-to facing"
)

SAME_PREPOSITION: Final = {
    "alongside": "along",
    "inside": "in",
    "within": "in",
    "onto": "on",
    "upon": "on",
    "amongst": "among",
    "amid": "among",
    "round": "around",
    "about": "around",
    "nearby": "near",
    "close-to": "near",
    "close-by": "near",
    "besides": "beside",
    "on-both-sides-of": "along",
    "on-two-sides-of": "along",
    "on-either-side-of": "along",
    "on-each-side-of": "along",
    "on-sides-of": "along",
    "along-sides-of": "along",
    "along-both-sides-of": "along",
    "on-side-of": "beside",
    "on-one-side-of": "beside",
    "at-side-of": "beside",
    "by-side-of": "beside",
    "toward": "towards",
    "on-top-of": "on",
    "in-middle-of": "in",
    "in-center-of": "in",
    "at-edge-of": "at",
    "at-end-of": "at",
    "in-place-of": REPLACE,
    "instead-of": REPLACE,
    "throughout": "through",
    "underneath": "under",
    "beneath": "under",
}
"""Canonical names of prepositions; both sides of an entity are "along", one side is "beside"."""

_FROM: Final = word_set("on in at off out-of")
_DROPPED: Final = word_set("is are was were be been being has have had the a an newly also")


def join_relation(verb: str | None, preposition: str | None) -> str:
    """Return the relation of a verb's lemma and a preposition, either of which may be missing.

    With a verb of disappearance, "on", "in" and "at" become "from".
    """
    if verb is None:
        return preposition or "be"
    if preposition is None:
        return verb
    if verb in DISAPPEAR_VERBS and preposition in _FROM:
        preposition = "from"
    return f"{verb}-{preposition}"


def split_relation(relation: str) -> tuple[str | None, str | None]:
    """Split a relation into verb and preposition: "cut-down-from" is ("cut-down", "from"), "near" has no verb."""
    words = relation.split("-")
    for length in range(len(words), 0, -1):
        tail = "-".join(words[-length:])
        if tail in PREPOSITIONS and (length == len(words) or "-".join(words) not in KNOWN_VERBS):
            return "-".join(words[:-length]) or None, tail
    return relation, None


def normalise_relation(relation: str) -> str:
    """Return a relation in hyphenated lemmas.

    "built along" and "is built alongside" are "build-along"; "has been removed from" is "remove-from"; "on both sides
    of" is "along". Auxiliaries, articles and adverbs in -ly are dropped. Without any word the result is empty.
    """
    words = [word for token in spaced_words(relation) for word in token.split("-")]
    lemmas = [word for word in words if word not in _DROPPED and not word.endswith("ly")]
    if not lemmas:
        return "be" if words else ""
    whole = "-".join(lemmas)
    if whole in SAME_PREPOSITION:
        return SAME_PREPOSITION[whole]
    if whole in PREPOSITIONS:
        return whole
    verb, others = verb_lemma(lemmas[0]), lemmas[1:]
    if others and f"{verb}-{others[0]}" in KNOWN_VERBS and f"{verb}-{others[0]}" not in BECOME_VERBS:
        verb, others = f"{verb}-{others[0]}", others[1:]
    if not others:
        return verb
    preposition = "-".join(others)
    return join_relation(verb, SAME_PREPOSITION.get(preposition, preposition))


def family_of(relation: str) -> Family:
    """Return the family of a relation in hyphenated lemmas.

    The verb decides; a bare preposition is spatial, an unknown verb is "other".
    """
    verb, _ = split_relation(relation)
    if verb is None:
        return "spatial"
    if verb in REPLACE_VERBS:
        return "replace"
    if verb in APPEAR_VERBS:
        return "appear"
    if verb in DISAPPEAR_VERBS:
        return "disappear"
    return "spatial" if verb in SPATIAL_VERBS else "other"


_AREA: Final = "area"
"""Head of an event of the scene itself: "this area was urbanised"."""
_AGENT: Final = frozenset(("by", "with"))
_PASSIVE_PLACES: Final = word_set("surround cover fill occupy enclose line flank border encircle dot frame")


def canonical(head: str, relation: str, tail: str | None) -> tuple[str, str, str, Family] | None:
    """Bring a triple to the normal form.

    Entities and relation are normalised; "replaced by", "turned into", "becomes", "surrounded by" and the like are
    inverted; a tail that is missing or a part of the picture becomes "scene", and its preposition is dropped.

    Returns:
        Head, relation, tail and family; None where no head or no relation remains, or where an entity would only be in
        the scene (⟨house; near; scene⟩).
    """
    source = normalise_entity(head)
    target = normalise_entity(tail) if tail is not None else None
    name = normalise_relation(relation)
    if not name:
        return None
    verb, preposition = split_relation(name)
    becomes = verb in BECOME_VERBS and target not in (None, SCENE)
    if becomes or (verb in REPLACE_VERBS and preposition in _AGENT):
        source, target, name = target, source, REPLACE
    elif verb in REPLACE_VERBS or preposition == REPLACE:
        name = REPLACE
    elif verb in _PASSIVE_PLACES and preposition in _AGENT and target not in (None, SCENE):
        source, target, name = target, source, verb or name
    return finish_triple(source, name, target)


def finish_triple(source: str | None, name: str, target: str | None) -> tuple[str, str, str, Family] | None:
    """Complete a triple of normalised entities and relation: the scene as tail, the family; see `canonical`."""
    target = target or SCENE
    verb, _ = split_relation(name)
    if source is None:
        return None
    if target == SCENE:
        if verb in (None, "be", "have"):
            return None
        name = verb
    if source == SCENE and name != REPLACE:
        source = _AREA
    return source, name, target, family_of(name)
