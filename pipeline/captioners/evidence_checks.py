"""Does the evidence fit the captioner?"""

from __future__ import annotations

from typing import TypeVar

from pipeline.captioners.evidence import Evidence, EvidenceWidths
from pipeline.captioners.regions import Regions
from pipeline.captioners.settings import CaptionerSettings
from pipeline.errors import CheckpointError, DataError, SettingsError

PartT = TypeVar("PartT")

_SOURCES = {"motion": "matches", "semantics": "semantics", "graph": "graph"}
_NAMES = {"motion": "motion regions", "semantics": "semantic regions", "graph": "a caption graph"}


def check_widths(settings: CaptionerSettings, widths: EvidenceWidths) -> None:
    """Make sure that a captioner can be built.

    Raises:
        SettingsError: The settings ask for something that there is none of.
    """
    known = {
        "motion": widths.motion is not None,
        "semantics": widths.semantics is not None,
        "graph": widths.nodes is not None and widths.relations is not None,
    }
    for part, there in known.items():
        if getattr(settings.evidence, part) and not there:
            raise SettingsError(
                f"fusion: {settings.fusion} asks for {_NAMES[part]}, and there are no such data",
                where=f"evidence.{part}",
                fix=f"run `sagecc {_SOURCES[part]}`, or set evidence.{part}: false",
            )


def checked_evidence(
    settings: CaptionerSettings, widths: EvidenceWidths, evidence: Evidence | None, pairs: int
) -> Evidence:
    """Return the evidence of a batch if it fits.

    Values are looked at on the CPU only: on a GPU each look would make the host wait, and `Evidence.to` looks before.

    Args:
        settings: What the captioner takes, and how.
        widths: Widths that it was built for.
        evidence: What is given; parts that are not taken are not looked at.
        pairs: Number B of pairs of the batch.

    Raises:
        DataError: Something that is taken is missing, is of other pairs, or holds values that no cache should hold.
        CheckpointError: Something is of another width than the captioner was built for.
    """
    chosen = settings.evidence
    given = Evidence() if evidence is None else evidence
    taken = Evidence(
        motion=_present("motion", given.motion) if chosen.motion else None,
        semantics=_present("semantics", given.semantics) if chosen.semantics else None,
        graph=_present("graph", given.graph) if chosen.graph else None,
    )
    if taken.pairs not in (None, pairs):
        raise DataError(
            f"regions of {taken.pairs} pairs cannot go with scenes of {pairs}",
            where="evidence",
            fix="take both from the same pairs",
        )
    _check_fit(taken, widths)
    if taken.motion is not None:
        if settings.fusion == "paper" and taken.motion.centroids is None:
            raise _without("motion", "centroids", "take the centroids of `regions`, divided by the image's size")
        _check_dates("motion", taken.motion, settings)
    if taken.semantics is not None:
        if chosen.top_q is not None and taken.semantics.scores is None:
            raise _without("semantics", "scores", "take the similarities of `semantics`, or set evidence.top_q: null")
        _check_dates("semantics", taken.semantics, settings)
    taken.check_values()
    return taken


def _present(part: str, given: PartT | None) -> PartT:
    if given is None:
        raise DataError(
            f"the captioner takes {_NAMES[part]}, and none are given",
            where=f"evidence.{part}",
            fix=f"run `sagecc {_SOURCES[part]}`, or train a captioner with evidence.{part}: false",
        )
    return given


def _check_fit(taken: Evidence, widths: EvidenceWidths) -> None:
    there = taken.widths
    for part, what, found, wanted in (
        ("motion", "descriptors of width {}", there.motion, widths.motion),
        ("semantics", "embeddings of width {}", there.semantics, widths.semantics),
        ("graph", "node features of width {}", there.nodes, widths.nodes),
        ("graph", "a graph of {} relations", there.relations, widths.relations),
    ):
        if found is not None and found != wanted:
            raise CheckpointError(
                f"the captioner takes {what.format(wanted)}, given {what.format(found)}",
                where=f"evidence.{part}",
                fix=f"use what `sagecc {_SOURCES[part]}` made when the captioner was trained, or train it on this",
            )


def _check_dates(part: str, regions: Regions, settings: CaptionerSettings) -> None:
    apart = settings.fusion == "paper" and settings.paper.dates_apart
    if regions.dates is None and (settings.evidence.date_embedding or apart):
        key = "paper.dates_apart" if apart else "evidence.date_embedding"
        raise _without(part, "dates", f"say of which date each region is, or set {key}: false")


def _without(part: str, field: str, fix: str) -> DataError:
    return DataError(f"{_NAMES[part]} come without {field}", where=f"evidence.{part}.{field}", fix=fix)
