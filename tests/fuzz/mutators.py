"""Mutators of files: seeded damage to bytes, and to the structure of JSON documents and of lists of lines.

`mutated_bytes` is for any file; `mutated_json` and `mutated_lines` keep the syntax, so that the readers behind it are
reached. Each takes a `random.Random`; `generator(seed, number)` makes the one of a numbered file, the same everywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

ODD_BYTES: Final = (
    b"", b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b"\t", b'"', b"'", b"\\", b"{", b"[",
    b"}]", b",", b";", b":", b"null", b"NaN", b"Infinity", b"-", b"1e999", b"1" * 5000, b"..", b"/", b"~", b"\\ud800",
    b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xae", b"\xe0\xa4\xbf", b"[" * 2000, b'{"a":' * 2000,
)  # fmt: skip
"""Bytes that parsers stumble over: signs of JSON, CSV and paths, byte order marks, broken UTF-8, deep nesting."""

ODD_TEXTS: Final = (
    "", " ", "\n", "\x00", "\x1b[31m", "\x7f", "\u0085", "\u2028", "\ufeff", "\u202e", "\u200d", "\ud800", "\U0010ffff",
    "एक इमारत बनाई गई है", "新建了一栋房子", "مبنى جديد", "👩\u200d👧", "a\u0301", "ﷺ", "ſ", "İ", "ß", "½",
    "../x", "/etc/passwd", "C:\\x", "a\\b", "~", ".", "..", "x" * 300, "-" * 3000, "a " * 3000, "no " * 3000,
    "'s" * 3000, "a\u0301\u0316" * 3000, "(" * 3000, "the " * 500 + "house", "not only " * 300, "and , " * 800, "|||",
    "<pad>", "<unk>", "train", "0", "1", "true", "NaN", "nan", "1" * 5000, "=1+1", "%s", "{}", "${HOME}",
)  # fmt: skip
"""Texts that readers of captions, names and flags stumble over."""

ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]],
    [None], {"": None}, {"images": []}, "", "x",
)  # fmt: skip
"""Values of other types than a reader expects."""


def generator(seed: int, number: int) -> random.Random:
    """Return the random numbers of the file with this number: equal arguments, equal numbers, on every machine."""
    return random.Random(f"{seed}:{number}")


def mutated_bytes(data: bytes, rng: random.Random, *, most: int = 1 << 20) -> bytes:
    """Return `data` with one to four changes of bytes, at most `most` bytes long."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_BYTE_CHANGES)(data, rng)[:most]
    return data


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 64, 1024)))


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.choice(ODD_BYTES) + data[place:]


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _move(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    rest = data[:start] + data[end:]
    place = rng.randint(0, len(rest))
    return rest[:place] + data[start:end] + rest[place:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


_BYTE_CHANGES: Final = (_flip, _cut, _remove, _repeat, _insert, _overwrite, _move, _zero)


def mutated_json(document: Any, rng: random.Random) -> str:
    """Return a JSON document with one to three of its values, keys or items changed, as text; mostly valid JSON."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _changed(document, rng)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    return text if rng.random() < 0.95 else text.replace('"', rng.choice(("'", '\\"', '""')), rng.randint(1, 3))


def _changed(value: Any, rng: random.Random) -> Any:
    """Return a copy of `value` in which one place, chosen on the way down, is changed."""
    stop = rng.random() < 0.03
    if isinstance(value, dict) and value and not stop:
        key = rng.choice(list(value))
        if rng.random() < 0.85:
            return {name: _changed(inner, rng) if name == key else inner for name, inner in value.items()}
        if rng.random() < 0.5:
            return {name: inner for name, inner in value.items() if name != key}
        return {(odd_text(rng) if name == key else name): inner for name, inner in value.items()}
    if isinstance(value, list) and value and not stop:
        place = rng.randrange(len(value))
        if rng.random() < 0.85:
            return [_changed(item, rng) if number == place else item for number, item in enumerate(value)]
        return rng.choice((value[:place] + value[place + 1 :], [*value, value[place]], value[::-1], value * 3))
    if isinstance(value, str) and rng.random() < 0.7:
        return mutated_text(value, rng)
    return rng.choice(ODD_VALUES)


def odd_text(rng: random.Random) -> str:
    """Return one of `ODD_TEXTS`, or a few random characters of all of Unicode, halves of characters among them."""
    if rng.random() < 0.7:
        return rng.choice(ODD_TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x110000)))) for _ in range(8)
    )


def mutated_text(text: str, rng: random.Random) -> str:
    """Return a text with an odd one in it or in its place, or with one of its characters repeated many times."""
    place = rng.randint(0, len(text))
    kind = rng.randrange(4)
    if kind == 0:
        return odd_text(rng)
    if kind == 1:
        return text[:place] + text[max(place - 1, 0) : place] * rng.choice((2, 100, 3000)) + text[place:]
    if kind == 2:
        return text[:place]
    return text[:place] + odd_text(rng) + text[place:]


def mutated_lines(lines: Sequence[str], rng: random.Random, *, cells: Callable[[str], list[str]] | None = None) -> str:
    """Return lines with one to three of them changed, as text; `cells` splits a line into the parts between commas."""
    changed = list(lines)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(changed)) if changed else 0
        kind = rng.randrange(5)
        if kind == 0 or not changed:
            changed.insert(place, odd_text(rng))
        elif kind == 1:
            del changed[place]
        elif kind == 2:
            changed.insert(place, changed[place])
        elif cells is None or kind == 3:
            changed[place] = mutated_text(changed[place], rng)
        else:
            parts = cells(changed[place])
            parts[rng.randrange(len(parts))] = odd_text(rng)
            changed[place] = ",".join(parts)
    return rng.choice(("\n", "\n", "\n", "\r\n", "\r")).join(changed) + rng.choice(("", "\n"))


def encoded(text: str, rng: random.Random) -> bytes:
    """Encode a text: as UTF-8, at times with a byte order mark or in another encoding; surrogates pass."""
    encoding = rng.choice(("utf-8",) * 20 + ("utf-8-sig", "utf-16", "latin-1"))
    return text.encode(encoding, errors="replace" if encoding == "latin-1" else "surrogatepass")
