"""From the elements of a sentence to its clauses: one finite verb each, with what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pipeline.language.triples.elements import Element, Mark, Mention, Preposition, Verb


def find_clauses(elements: Sequence[Element]) -> list[list[Element]]:
    """Cut a sentence into clauses.

    Full stops, semicolons and words such as "while" part clauses for certain. Between two finite verbs an "and" may
    part clauses or join two things of one clause; see `_split_between`.
    """
    clauses: list[list[Element]] = []
    part: list[Element] = []
    for element in [*elements, Mark("SUB", 0, 0)]:
        if isinstance(element, Mark) and element.kind in ("SUB", "REL"):
            clauses.extend(_split(part))
            part = []
        else:
            part.append(element)
    return [clause for clause in clauses if clause]


def _split(part: list[Element]) -> list[list[Element]]:
    verbs = [i for i, element in enumerate(part) if isinstance(element, Verb) and element.form == "finite"]
    if len(verbs) < 2:
        tail = _trailing_fragment(part, verbs[0]) if verbs else None
        return [part] if tail is None else [part[:tail], part[tail + 1 :]]
    clauses: list[list[Element]] = []
    start = 0
    for earlier, later in pairwise(verbs):
        cut = _split_between(part, earlier, later)
        clauses.append(part[start:cut])
        start = cut
    last = part[start:]
    tail = _trailing_fragment(last, verbs[-1] - start)
    clauses.extend([last] if tail is None else [last[:tail], last[tail + 1 :]])
    return [_without_joint(clause) for clause in clauses]


def _trailing_fragment(clause: list[Element], verb: int) -> int | None:
    """Find an "and" after which a clause without a verb of its own follows: "trees are removed and houses built"."""
    for i in range(verb + 1, len(clause) - 2):
        new = clause[i + 1]
        if (
            _is_joint(clause[i])
            and isinstance(new, Mention)
            and not _open_list(clause, i, verb)
            and any(isinstance(element, Verb) and element.form == "participle" for element in clause[i + 2 :])
        ):
            return i
    return None


def _without_joint(clause: list[Element]) -> list[Element]:
    while clause and _is_joint(clause[0]):
        clause = clause[1:]
    return clause


def _is_joint(element: Element) -> bool:
    return isinstance(element, Mark) and element.kind in ("AND", "COMMA")


def _split_between(part: list[Element], earlier: int, later: int) -> int:
    """Find where the clause of the verb at `later` begins.

    Candidates are the joints followed by a noun phrase. Where nothing stands before a joint that it could join to
    what follows, it parts the clauses; so does one before something new ("a", "two", "some") after a mere place.
    Otherwise the last joint decides after which the subject agrees with the verb in number.
    """
    verb = part[later]
    assert isinstance(verb, Verb)
    joints = [i for i in range(earlier + 1, later) if _is_joint(part[i])]
    candidates = [
        i for i in joints if isinstance(part[i + 1], Mention | Preposition | Mark) and not _is_joint(part[i + 1])
    ]
    candidates = [i for i in candidates if any(isinstance(element, Mention) for element in part[i:later])]
    if not candidates:
        if joints:
            return joints[-1]
        return next(
            (i for i in range(earlier + 1, later) if isinstance(part[i], Mention) and _new_subject(part, i)), later
        )
    for i in candidates:
        if not _open_list(part, i, earlier):
            return i
    agreeing = [i for i in candidates if _agrees(part, i, later, verb)]
    return agreeing[-1] if agreeing else candidates[0]


def _new_subject(part: Sequence[Element], i: int) -> bool:
    return i > 0 and not isinstance(part[i - 1], Preposition) and not _is_joint(part[i - 1])


def _open_list(part: Sequence[Element], joint: int, verb: int) -> bool:
    """Tell whether what stands before a joint can be coordinated with what follows it."""
    before, after = part[joint - 1], part[joint + 1]
    if not isinstance(before, Mention) or not isinstance(after, Mention):
        return False
    if before.picture or before.refers:
        return before.picture and after.picture
    if after.picture:
        return True
    governor = _governor(part, joint - 1, verb)
    if governor in ("by", "with", "into", "to", "replace", "object"):
        return True
    return not after.indefinite


def _governor(part: Sequence[Element], i: int, verb: int) -> str:
    for j in range(i - 1, verb, -1):
        element = part[j]
        if isinstance(element, Preposition):
            return element.name
        if not isinstance(element, Mention) and not _is_joint(element):
            break
    return "object"


def _agrees(part: Sequence[Element], joint: int, later: int, verb: Verb) -> bool:
    subject = next((element for element in part[joint:later] if isinstance(element, Mention)), None)
    if subject is None or verb.plural is None:
        return True
    several = any(_is_joint(element) for element in part[joint + 1 : later])
    return subject.plural == verb.plural or (verb.plural and several)
