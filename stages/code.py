"""Modules that each stage is made of, and the digest of them that stands in the keys of its results.

`CODE` and the same files in dvc.yaml are written by `python -m stages.code`, which reads them from the imports; a test
tells when they are out of date. Digests are taken of the imports as they are, so they are right in any case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.code import ROOT, closure, code_digest, locate, targets

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "prepare": ("pipeline.datasets.adapters",),
    "scenes": ("pipeline.vision.scenes.registry",),
    "train": ("pipeline.captioners.registry", "pipeline.vision.scenes.registry"),
    "caption": ("pipeline.captioners.registry", "pipeline.vision.scenes.registry", "pipeline.datasets.adapters"),
    # The sentences by which a data set says that nothing changed are the adapter's.
    "evaluate": ("pipeline.datasets.adapters",),
}
"""Registries from which a stage takes what its settings name."""

CODE: Final[dict[str, tuple[str, ...]]] = {
    "prepare": (
        "pipeline/datasets/adapters/base.py",
        "pipeline/datasets/adapters/dubai_cc.py",
        "pipeline/datasets/adapters/folder.py",
        "pipeline/datasets/adapters/levir_cc.py",
        "pipeline/datasets/adapters/levir_mci.py",
        "pipeline/datasets/adapters/second_cc.py",
        "pipeline/datasets/adapters/synthetic.py",
        "pipeline/datasets/adapters/whu_cdc.py",
        "pipeline/datasets/audit.py",
        "pipeline/datasets/caption_files.py",
        "pipeline/datasets/checks.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/listing.py",
        "pipeline/datasets/no_change.py",
        "pipeline/datasets/paths.py",
        "pipeline/datasets/records.py",
        "pipeline/datasets/settings.py",
        "pipeline/datasets/vocabulary.py",
        "pipeline/datasets/world/captions.py",
        "pipeline/datasets/world/events.py",
        "pipeline/datasets/world/facts.py",
        "pipeline/datasets/world/files.py",
        "pipeline/datasets/world/geometry.py",
        "pipeline/datasets/world/labels.py",
        "pipeline/datasets/world/light.py",
        "pipeline/datasets/world/paint.py",
        "pipeline/datasets/world/pair.py",
        "pipeline/datasets/world/phrases.py",
        "pipeline/datasets/world/scene.py",
        "pipeline/datasets/world/settings.py",
        "pipeline/datasets/world/site.py",
        "pipeline/datasets/world/things.py",
        "pipeline/files.py",
        "stages/prepare.py",
    ),
    "scenes": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/records.py",
        "pipeline/execution/build.py",
        "pipeline/execution/compute.py",
        "pipeline/execution/engines.py",
        "pipeline/execution/shards.py",
        "pipeline/files.py",
        "pipeline/runtime.py",
        "pipeline/vision/scenes/backbones.py",
        "pipeline/vision/scenes/settings.py",
        "pipeline/vision/scenes/worker.py",
        "pipeline/weights.py",
        "stages/scenes.py",
    ),
    "masks": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/records.py",
        "pipeline/execution/build.py",
        "pipeline/execution/compute.py",
        "pipeline/execution/engines.py",
        "pipeline/execution/shards.py",
        "pipeline/files.py",
        "pipeline/runtime.py",
        "pipeline/vision/adaptive_batch.py",
        "pipeline/vision/masks.py",
        "pipeline/vision/sam/amg.py",
        "pipeline/vision/sam/cache.py",
        "pipeline/vision/sam/decoder.py",
        "pipeline/vision/sam/encoder.py",
        "pipeline/vision/sam/generator.py",
        "pipeline/vision/sam/model.py",
        "pipeline/vision/sam/postprocess.py",
        "pipeline/vision/sam/settings.py",
        "pipeline/vision/sam/worker.py",
        "pipeline/weights.py",
        "stages/masks.py",
    ),
    "regions": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/records.py",
        "pipeline/execution/build.py",
        "pipeline/execution/compute.py",
        "pipeline/execution/engines.py",
        "pipeline/execution/shards.py",
        "pipeline/files.py",
        "pipeline/runtime.py",
        "pipeline/vision/adaptive_batch.py",
        "pipeline/vision/masks.py",
        "pipeline/vision/regions/cache.py",
        "pipeline/vision/regions/descriptor.py",
        "pipeline/vision/regions/settings.py",
        "pipeline/vision/regions/worker.py",
        "pipeline/vision/sam/cache.py",
        "pipeline/vision/sam/encoder.py",
        "pipeline/vision/sam/model.py",
        "pipeline/vision/sam/settings.py",
        "pipeline/weights.py",
        "stages/regions.py",
    ),
    "matches": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/execution/build.py",
        "pipeline/execution/compute.py",
        "pipeline/execution/engines.py",
        "pipeline/execution/shards.py",
        "pipeline/files.py",
        "pipeline/runtime.py",
        "pipeline/vision/adaptive_batch.py",
        "pipeline/vision/masks.py",
        "pipeline/vision/matching/build.py",
        "pipeline/vision/matching/cache.py",
        "pipeline/vision/matching/lightglue.py",
        "pipeline/vision/matching/matcher.py",
        "pipeline/vision/matching/settings.py",
        "pipeline/vision/matching/superglue.py",
        "pipeline/vision/matching/worker.py",
        "pipeline/vision/regions/cache.py",
        "pipeline/vision/regions/settings.py",
        "pipeline/vision/tensors.py",
        "pipeline/weights.py",
        "stages/matches.py",
    ),
    "semantics": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/caption_graph/settings.py",
        "pipeline/caption_graph/text_encoders.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/paths.py",
        "pipeline/datasets/records.py",
        "pipeline/datasets/world/settings.py",
        "pipeline/execution/build.py",
        "pipeline/execution/compute.py",
        "pipeline/execution/engines.py",
        "pipeline/execution/shards.py",
        "pipeline/files.py",
        "pipeline/runtime.py",
        "pipeline/vision/adaptive_batch.py",
        "pipeline/vision/external/arrays.py",
        "pipeline/vision/external/settings.py",
        "pipeline/vision/external/tags.py",
        "pipeline/vision/grounding/cache.py",
        "pipeline/vision/grounding/detector.py",
        "pipeline/vision/grounding/model.py",
        "pipeline/vision/grounding/prompts.py",
        "pipeline/vision/grounding/settings.py",
        "pipeline/vision/grounding/worker.py",
        "pipeline/vision/masks.py",
        "pipeline/vision/regions/descriptor.py",
        "pipeline/vision/regions/settings.py",
        "pipeline/vision/regions/worker.py",
        "pipeline/vision/sam/amg.py",
        "pipeline/vision/sam/boxes.py",
        "pipeline/vision/sam/cache.py",
        "pipeline/vision/sam/decoder.py",
        "pipeline/vision/sam/encoder.py",
        "pipeline/vision/sam/model.py",
        "pipeline/vision/sam/settings.py",
        "pipeline/weights.py",
        "stages/semantics.py",
    ),
    "graph": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/caption_graph/build.py",
        "pipeline/caption_graph/coverage.py",
        "pipeline/caption_graph/extraction.py",
        "pipeline/caption_graph/llm/client.py",
        "pipeline/caption_graph/llm/merges.py",
        "pipeline/caption_graph/llm/questions.py",
        "pipeline/caption_graph/llm/run.py",
        "pipeline/caption_graph/llm/store.py",
        "pipeline/caption_graph/llm/triples.py",
        "pipeline/caption_graph/merging.py",
        "pipeline/caption_graph/records.py",
        "pipeline/caption_graph/settings.py",
        "pipeline/caption_graph/store.py",
        "pipeline/caption_graph/text_encoders.py",
        "pipeline/caption_graph/triples/chunking.py",
        "pipeline/caption_graph/triples/lexicon.py",
        "pipeline/caption_graph/triples/normalisation.py",
        "pipeline/caption_graph/triples/records.py",
        "pipeline/caption_graph/triples/rules.py",
        "pipeline/caption_graph/triples/statements.py",
        "pipeline/caption_graph/triples/tagging.py",
        "pipeline/datasets/caption_files.py",
        "pipeline/datasets/no_change.py",
        "pipeline/datasets/paths.py",
        "pipeline/datasets/records.py",
        "pipeline/datasets/settings.py",
        "pipeline/datasets/vocabulary.py",
        "pipeline/files.py",
        "pipeline/graph_encoders/encoders.py",
        "pipeline/graph_encoders/link_prediction.py",
        "pipeline/graph_encoders/settings.py",
        "pipeline/graph_encoders/tensors.py",
        "pipeline/runtime.py",
        "pipeline/weights.py",
        "stages/graph.py",
    ),
    "train": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/caption_graph/records.py",
        "pipeline/caption_graph/store.py",
        "pipeline/caption_graph/triples/normalisation.py",
        "pipeline/caption_graph/triples/records.py",
        "pipeline/captioners/base.py",
        "pipeline/captioners/decoder.py",
        "pipeline/captioners/fusion.py",
        "pipeline/captioners/generation.py",
        "pipeline/captioners/inputs.py",
        "pipeline/captioners/layers.py",
        "pipeline/captioners/sage_cc.py",
        "pipeline/captioners/scene_encoder.py",
        "pipeline/captioners/settings.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/records.py",
        "pipeline/datasets/settings.py",
        "pipeline/datasets/vocabulary.py",
        "pipeline/evaluation/java.py",
        "pipeline/evaluation/scores.py",
        "pipeline/execution/build.py",
        "pipeline/execution/compute.py",
        "pipeline/execution/engines.py",
        "pipeline/execution/shards.py",
        "pipeline/files.py",
        "pipeline/graph_encoders/encoders.py",
        "pipeline/graph_encoders/settings.py",
        "pipeline/graph_encoders/tensors.py",
        "pipeline/runtime.py",
        "pipeline/training/batches.py",
        "pipeline/training/checkpoints.py",
        "pipeline/training/distributed.py",
        "pipeline/training/inputs.py",
        "pipeline/training/loop.py",
        "pipeline/training/model.py",
        "pipeline/training/region_inputs.py",
        "pipeline/training/run.py",
        "pipeline/training/scene_inputs.py",
        "pipeline/training/settings.py",
        "pipeline/training/stores.py",
        "pipeline/vision/grounding/cache.py",
        "pipeline/vision/masks.py",
        "pipeline/vision/matching/cache.py",
        "pipeline/vision/matching/matcher.py",
        "pipeline/vision/matching/settings.py",
        "pipeline/vision/regions/cache.py",
        "pipeline/vision/regions/descriptor.py",
        "pipeline/vision/regions/settings.py",
        "pipeline/vision/sam/cache.py",
        "pipeline/vision/scenes/backbones.py",
        "pipeline/vision/scenes/settings.py",
        "pipeline/vision/scenes/worker.py",
        "pipeline/vision/tensors.py",
        "pipeline/weights.py",
        "stages/train.py",
    ),
    "caption": (
        "pipeline/cache/columns.py",
        "pipeline/cache/layout.py",
        "pipeline/cache/reader.py",
        "pipeline/cache/schema.py",
        "pipeline/cache/writer.py",
        "pipeline/caption_graph/records.py",
        "pipeline/caption_graph/store.py",
        "pipeline/caption_graph/triples/normalisation.py",
        "pipeline/caption_graph/triples/records.py",
        "pipeline/captioners/attention_maps.py",
        "pipeline/captioners/base.py",
        "pipeline/captioners/decoder.py",
        "pipeline/captioners/fusion.py",
        "pipeline/captioners/generation.py",
        "pipeline/captioners/inputs.py",
        "pipeline/captioners/layers.py",
        "pipeline/captioners/sage_cc.py",
        "pipeline/captioners/scene_encoder.py",
        "pipeline/captioners/settings.py",
        "pipeline/datasets/adapters/base.py",
        "pipeline/datasets/adapters/dubai_cc.py",
        "pipeline/datasets/adapters/folder.py",
        "pipeline/datasets/adapters/levir_cc.py",
        "pipeline/datasets/adapters/levir_mci.py",
        "pipeline/datasets/adapters/second_cc.py",
        "pipeline/datasets/adapters/synthetic.py",
        "pipeline/datasets/adapters/whu_cdc.py",
        "pipeline/datasets/audit.py",
        "pipeline/datasets/caption_files.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/listing.py",
        "pipeline/datasets/no_change.py",
        "pipeline/datasets/paths.py",
        "pipeline/datasets/records.py",
        "pipeline/datasets/settings.py",
        "pipeline/datasets/vocabulary.py",
        "pipeline/files.py",
        "pipeline/graph_encoders/encoders.py",
        "pipeline/graph_encoders/settings.py",
        "pipeline/graph_encoders/tensors.py",
        "pipeline/runtime.py",
        "pipeline/training/checkpoints.py",
        "pipeline/training/inference.py",
        "pipeline/training/inputs.py",
        "pipeline/training/model.py",
        "pipeline/training/region_inputs.py",
        "pipeline/training/scene_inputs.py",
        "pipeline/training/settings.py",
        "pipeline/training/stores.py",
        "pipeline/vision/grounding/cache.py",
        "pipeline/vision/masks.py",
        "pipeline/vision/matching/cache.py",
        "pipeline/vision/matching/matcher.py",
        "pipeline/vision/matching/settings.py",
        "pipeline/vision/regions/cache.py",
        "pipeline/vision/regions/descriptor.py",
        "pipeline/vision/regions/settings.py",
        "pipeline/vision/sam/cache.py",
        "pipeline/vision/scenes/backbones.py",
        "pipeline/vision/scenes/settings.py",
        "pipeline/vision/scenes/worker.py",
        "pipeline/vision/tensors.py",
        "pipeline/weights.py",
        "stages/caption.py",
    ),
    "evaluate": (
        "pipeline/datasets/adapters/base.py",
        "pipeline/datasets/adapters/dubai_cc.py",
        "pipeline/datasets/adapters/folder.py",
        "pipeline/datasets/adapters/levir_cc.py",
        "pipeline/datasets/adapters/levir_mci.py",
        "pipeline/datasets/adapters/second_cc.py",
        "pipeline/datasets/adapters/synthetic.py",
        "pipeline/datasets/adapters/whu_cdc.py",
        "pipeline/datasets/audit.py",
        "pipeline/datasets/caption_files.py",
        "pipeline/datasets/images.py",
        "pipeline/datasets/listing.py",
        "pipeline/datasets/no_change.py",
        "pipeline/datasets/paths.py",
        "pipeline/datasets/records.py",
        "pipeline/datasets/settings.py",
        "pipeline/datasets/vocabulary.py",
        "pipeline/evaluation/baselines.py",
        "pipeline/evaluation/java.py",
        "pipeline/evaluation/output.py",
        "pipeline/evaluation/report.py",
        "pipeline/evaluation/scores.py",
        "pipeline/files.py",
        "stages/evaluate.py",
    ),
}
"""Files of the project that each stage of dvc.yaml runs, without those that cannot change a result."""


def stage_digest(stage: str, *chosen: str) -> str:
    """Return the SHA-256 of the code that a stage runs, 64 digits; see `pipeline.code.code_digest`.

    Args:
        stage: Name of the stage.
        chosen: What its settings choose from registries: "module:attribute".
    """
    return code_digest(f"stages.{stage}", *chosen)


def modules_run(stage: str) -> tuple[str, ...]:
    """Return the files that a stage can run, whatever its settings choose, as paths from the project folder."""
    roots = [f"stages.{stage}"]
    for registry in CHOICES.get(stage, ()):
        roots += targets(registry)
    files = (locate(module) for root in roots for module in closure(root))
    return tuple(sorted({_shown(file) for file in files if file is not None}))


def _shown(file: Path) -> str:
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)


def render_code(code: Mapping[str, tuple[str, ...]], source: str) -> str:
    """Return the source of this module with other contents of `CODE`."""
    entries = ""
    for stage, files in code.items():
        lines = "".join(f'        "{file}",\n' for file in files)
        entries += f'    "{stage}": (\n{lines}    ),\n'
    declaration = r"^(CODE: [^\n]*\{\n).*?^(\})"
    return re.sub(declaration, lambda match: match[1] + entries + match[2], source, count=1, flags=re.S | re.M)


def render_dvc(code: Mapping[str, tuple[str, ...]], text: str) -> str:
    """Return dvc.yaml with the files of `code` among the dependencies of each stage, after its data."""
    lines: list[str] = []
    stage, within = "", False
    for line in text.splitlines():
        if match := re.fullmatch(r"  ([\w-]+):", line):
            stage = match[1]
        item = re.fullmatch(r"      - (\S+)", line)
        if within and item is None:
            lines += [f"      - {file}" for file in code[stage]]
        within = line == "    deps:" or (within and item is not None)
        if not (within and item is not None and re.match(r"(pipeline|stages|cli)/", item[1])):
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write `CODE` and the dependencies in dvc.yaml anew, and say what changed."""
    code = {stage: modules_run(stage) for stage in CODE}
    for file, render in ((Path(__file__), render_code), (ROOT / "dvc.yaml", render_dvc)):
        before = file.read_text(encoding="utf-8")
        after = render(code, before)
        file.write_text(after, encoding="utf-8")
        print(f"{file.name}: {'up to date' if after == before else 'written'}")
    for stage, files in code.items():
        for sign, changed in (("+", set(files) - set(CODE[stage])), ("-", set(CODE[stage]) - set(files))):
            print("".join(f"{stage}: {sign} {file}\n" for file in sorted(changed)), end="")


if __name__ == "__main__":
    main()
