"""Relations: hyphenated lemmas of a verb and its preposition, and the family that each belongs to."""

from __future__ import annotations

from typing import Final

from pipeline.language.tokenizer import tokenize
from pipeline.language.triples.lemmas import verb_lemma, word_set
from pipeline.language.triples.records import Family

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
"""Verbs whose subject is what was there before: "X becomes Y", "X turned into Y" is ⟨Y; replace; X⟩."""

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
"""Prepositions that say the same: each group has one name. Both sides of a thing are "along", one side "beside"."""

_FROM: Final = word_set("on in at off out-of")
_DROPPED: Final = word_set("is are was were be been being has have had the a an newly also")


def join_relation(verb: str | None, preposition: str | None) -> str:
    """Compose a relation from the lemma of a verb and a preposition, either of which may be missing.

    With a verb of disappearance, "on", "in" and "at" are "from": houses removed on the bareland are removed from it.
    """
    if verb is None:
        return preposition or "be"
    if preposition is None:
        return verb
    if verb in DISAPPEAR_VERBS and preposition in _FROM:
        preposition = "from"
    return f"{verb}-{preposition}"


def split_relation(relation: str) -> tuple[str | None, str | None]:
    """Take a relation apart into verb and preposition: "cut-down-from" is ("cut-down", "from"), "near" has no verb."""
    parts = relation.split("-")
    for length in range(len(parts), 0, -1):
        tail = "-".join(parts[-length:])
        if tail in PREPOSITIONS and (length == len(parts) or "-".join(parts) not in KNOWN_VERBS):
            return "-".join(parts[:-length]) or None, tail
    return relation, None


def normalise_relation(relation: str) -> str:
    """Bring a relation in any writing to hyphenated lemmas.

    "built along" and "is built alongside" are "build-along"; "has been removed from" is "remove-from"; "on both sides
    of" is "along". Auxiliaries, articles and adverbs in -ly fall away. The empty string comes back for no words.
    """
    words = [word for part in tokenize(relation) for word in part.split("-")]
    kept = [word for word in words if word not in _DROPPED and not word.endswith("ly")]
    if not kept:
        return "be" if words else ""
    whole = "-".join(kept)
    if whole in SAME_PREPOSITION:
        return SAME_PREPOSITION[whole]
    if whole in PREPOSITIONS:
        return whole
    verb, rest = verb_lemma(kept[0]), kept[1:]
    if rest and f"{verb}-{rest[0]}" in KNOWN_VERBS and f"{verb}-{rest[0]}" not in BECOME_VERBS:
        verb, rest = f"{verb}-{rest[0]}", rest[1:]
    if not rest:
        return verb
    preposition = "-".join(rest)
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
