"""`sagecc draw`: what the caches know of pairs, as a picture; no stage of dvc.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import SettingsError
from pipeline.vision.drawing.canvas import save_png
from pipeline.vision.drawing.gather import gather_pair
from pipeline.vision.drawing.pair import draw_pair, draw_sheet, without_imagery


def run(
    prepared: Path,
    pairs: Sequence[str],
    masks: Path,
    matches: Path,
    semantics: Path,
    output: Path,
    *,
    kinds: Sequence[str] = (),
    imagery: bool = True,
) -> Path:
    """Draw masks, correspondences and semantic regions of pairs; of caches that are not there yet, nothing is drawn.

    Args:
        prepared: Folder that `sagecc prepare` wrote.
        pairs: Their ids. One is drawn large, several row by row.
        masks: Cache that `sagecc masks` wrote.
        matches: Cache that `sagecc matches` wrote, if it is there.
        semantics: Cache that `sagecc semantics` wrote, if it is there.
        output: PNG to write.
        kinds: Which of `pipeline.vision.drawing.pair.KINDS` are drawn of several pairs; none: all that are known.
        imagery: Whether the images themselves are shown; else their regions lie on grey, for imagery that may not be
            passed on.

    Returns:
        `output`.

    Raises:
        CacheError: The masks are missing, or a cache is damaged or of other pairs.
        DataError: There is no such pair, or an image cannot be read.
        SettingsError: A kind is unknown, or nothing is known of it; or kinds are given for one pair.
    """
    known = [
        gather_pair(
            prepared,
            pair,
            masks=masks,
            matches=matches if matches.exists() else None,
            semantics=semantics if semantics.exists() else None,
        )
        for pair in pairs
    ]
    if not imagery:
        known = [without_imagery(pair) for pair in known]
    there = known[0].known
    chosen = tuple(kind for kind in there if kind in kinds or not kinds)
    for kind in kinds:
        if kind not in there:
            raise SettingsError(f"nothing is known of {kind!r}", where="--kind", fix=f"one of: {', '.join(there)}")
    if len(known) == 1:
        if kinds:
            raise SettingsError(
                "of one pair everything is drawn", where="--kind", fix="leave it out, or name more pairs"
            )
        return save_png(draw_pair(known[0]), output)
    return save_png(draw_sheet(known, chosen), output)
