"""SAM's automatic masks by the batched generator against segment_anything's own, at equal settings and weights.

On a CPU: the mini SAM at 128 pixels with 16 points a side, and beyond `--quick` ViT-B at 512 pixels and the mini SAM in
bf16; one thread, as in every process of the stage. On a GPU: ViT-B and ViT-H at 1,024 pixels with 32 points a side on
images of 256, ours in bf16, and ViT-B also in fp32; the reference in fp32. Where weights are absent they
are random, with thresholds that let about as many masks pass as trained ones do at the published thresholds.

`vs_reference` is the smallest ratio of the cases (on a GPU `vs_reference_gpu`, in bf16); `mean_iou` the smallest mean
IoU of the reference's masks with ours in fp32, `equal_counts` whether there are equally many of them. `…_hours` are
those of LEVIR-CC's 20,154 images; `…_encoder_ms` and the like divide an image's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from benchmarks._sams import Case, build, draw, mean_iou
from benchmarks.harness import Figures, interleaved, rate
from pipeline.runtime import one_thread
from pipeline.vision.sam import amg, generator
from pipeline.vision.sam.cache import MaskSet
from pipeline.vision.sam.generator import MaskGenerator
from pipeline.vision.sam.settings import GeneratorSettings, Precision, SamSettings

BARS = {"vs_reference": 2.0, "vs_reference_gpu": 8.0, "mean_iou": 0.99, "equal_counts": 1.0}

LEVIR_CC = 20_154
_VIT_B = SamSettings(variant="vit_b", weights="sam_vit_b_01ec64.pth")
_VIT_H = SamSettings(variant="vit_h", weights="sam_vit_h_4b8939.pth")
_MINI = Case(SamSettings(), points=16, side=128, images=8, reference_images=2)
_SMALL = Case(_VIT_B.model_copy(update={"encoder_size": 512}), points=16, side=256, images=1, reference_images=1)

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class _CaseResult:
    """Results of a case.

    Attributes:
        figures: To print.
        ratio: Images per second of our generator over those of the reference.
        iou: Mean IoU of the reference's masks with ours.
        equal_counts: Whether there are equally many.
    """

    figures: Figures
    ratio: float
    iou: float
    equal_counts: bool


def run(quick: bool) -> Figures:
    if torch.cuda.is_available():
        rounds = 1 if quick else 3
        base = Case(_VIT_B, points=32, side=256, images=16, reference_images=2, batch=8)
        huge = Case(_VIT_H, points=32, side=256, images=16, reference_images=2, batch=8)
        exact = _measure("vit_b_fp32", base, "fp32", rounds)
        fast = [_measure("vit_b_bf16", base, "bf16", rounds), _measure("vit_h_bf16", huge, "bf16", rounds)]
        ratios = {"vs_reference_gpu": min(case.ratio for case in fast)}
        cases, checked = [exact, *fast], [exact]
    else:
        with one_thread():
            checked = [_measure("mini", _MINI, "fp32", 3)]
            if not quick:
                checked.append(_measure("vit_b", _SMALL, "fp32", 1))
            half = [] if quick else [_measure("mini_bf16", _MINI, "bf16", 1)]
        ratios, cases = {"vs_reference": min(case.ratio for case in checked)}, [*checked, *half]
    return {
        **ratios,
        "mean_iou": min(case.iou for case in checked),
        "equal_counts": float(all(case.equal_counts for case in checked)),
        **{name: value for case in cases for name, value in case.figures.items()},
    }


def _measure(name: str, case: Case, precision: Precision, rounds: int) -> _CaseResult:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = draw(case.images, case.side)
    sam, settings = build(case, images, device)
    ours = MaskGenerator(sam, case.sam, settings, device, precision=precision)
    theirs = _reference(sam, settings)

    def run_ours() -> list[MaskSet]:
        return ours.generate(images)

    def run_theirs() -> list[list[dict[str, Any]]]:
        return [theirs.generate(image) for image in images[: case.reference_images]]

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    masks = run_ours()
    memory = {f"{name}_memory_gib": torch.cuda.max_memory_allocated() / 2**30} if device.type == "cuda" else {}
    expected = run_theirs()
    sides = {"ours": rate(run_ours, case.images), "theirs": rate(run_theirs, case.reference_images)}
    measured = interleaved(sides, rounds, warm_up=False)
    ratio = measured.ratio("ours", "theirs")
    pairs = list(zip(masks, expected, strict=False))
    iou = float(np.mean([mean_iou(a, [record["segmentation"] for record in b]) for a, b in pairs]))
    equal_counts = all(len(a) == len(b) for a, b in pairs)
    figures = {
        **ratio.figures(f"{name}_vs_reference"),
        f"{name}_mean_iou": iou,
        f"{name}_masks": float(np.mean([len(a) for a, _ in pairs])),
        f"{name}_reference_masks": float(np.mean([len(b) for b in expected])),
        f"{name}_images_per_s": ratio.a,
        f"{name}_reference_images_per_s": ratio.b,
        f"{name}_hours": LEVIR_CC / ratio.a / 3600,
        f"{name}_reference_hours": LEVIR_CC / ratio.b / 3600,
        **memory,
        **{f"{name}_{part}_ms": value for part, value in _milliseconds(ours, images).items()},
    }
    return _CaseResult(figures, ratio.value, iou, equal_counts)


def _reference(sam: Sam, settings: GeneratorSettings) -> SamAutomaticMaskGenerator:
    return SamAutomaticMaskGenerator(
        sam,
        points_per_side=settings.points_per_side,
        pred_iou_thresh=settings.pred_iou_thresh,
        stability_score_thresh=settings.stability_score_thresh,
        stability_score_offset=settings.stability_score_offset,
        box_nms_thresh=settings.box_nms_thresh,
    )


def _milliseconds(ours: MaskGenerator, images: Images) -> dict[str, float]:
    """Return the milliseconds per image of each part of the work, synchronised with the device after each."""
    prompter = ours._prompter
    functions: dict[str, tuple[Any, str]] = {
        "encoder": (ours, "encode"),
        "decoder": (prompter.decoder, "decode"),
        "masks": (prompter.decoder, "logits"),
        "filtering": (prompter, "_filter"),
        "nms": (amg, "box_nms"),
        "packing": (generator, "postprocess"),
    }
    seconds = dict.fromkeys(functions, 0.0)
    originals = {part: getattr(owner, name) for part, (owner, name) in functions.items()}
    try:
        for part, (owner, name) in functions.items():
            setattr(owner, name, _timed(originals[part], seconds, part))
        start = time.perf_counter()
        ours.generate(images)
        total = time.perf_counter() - start
    finally:
        for part, (owner, name) in functions.items():
            setattr(owner, name, originals[part])
    seconds["rest"] = total - sum(seconds.values())
    return {part: 1000 * value / len(images) for part, value in seconds.items()}


def _timed(work: Callable[..., Any], seconds: dict[str, float], part: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        _synchronise()
        start = time.perf_counter()
        result = work(*arguments, **named)
        _synchronise()
        seconds[part] += time.perf_counter() - start
        return result

    return timed


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
