from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import parse_section, read_document, settings_hash, with_overrides
from pipeline.errors import SettingsError
from stages.renamed import RENAMED, SAME_CLASS
from stages.settings import (
    INDEPENDENT,
    SECTIONS,
    SHARED,
    GraphSettings,
    ModelsSettings,
    TrainSettings,
    own_settings,
    parse_sections,
    read_sections,
    renamed_keys,
    render_sections,
    resolve,
    section_at,
)

OLD = Path(__file__).with_name("params_before_models.yaml")

CHANGES = {
    "backbone": ("size", 64),
    "sam": ("encoder_size", 256),
    "grounding_dino": ("size", 320),
    "roi": ("mask_pooling", True),
    "head": ("kind", "conv"),
    "graph_encoder": ("kind", "gat"),
    "text_encoder": ("encoder", "hashed"),
}
"""Of every model, a setting and a value that is not its default."""


def leaves(values: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of a document that hold no mapping."""
    if not isinstance(values, dict):
        return [prefix]
    return [key for name, value in values.items() for key in leaves(value, f"{prefix}.{name}" if prefix else name)]


def document_of(key: str, value: Any) -> dict[str, Any]:
    """Return a document with one dotted key."""
    return with_overrides({}, [f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10_000)}"])


def test_defaults_of_models_are_those_of_the_stages() -> None:
    assert parse_sections({}) == {name: kind() for name, kind in SECTIONS.items()}
    assert set(CHANGES) == set(ModelsSettings.model_fields)
    sections = parse_sections({})
    for source, target in SHARED:
        model, stage = section_at(sections, source), section_at(sections, target)
        assert model is not None and stage is not None
        assert all(getattr(model, name) == getattr(stage, name) for name in type(model).model_fields)


@pytest.mark.parametrize("model", CHANGES)
def test_a_model_reaches_every_stage_that_uses_it(model: str) -> None:
    name, value = CHANGES[model]
    document = {"models": {model: {name: value}}, "masks": None, "train": {"epochs": 3}}
    sections = parse_sections(document)
    targets = [target for source, target in SHARED if source == f"models.{model}"]
    assert targets
    for target in targets:
        assert getattr(section_at(sections, target), name) == value
    assert document == {"models": {model: {name: value}}, "masks": None, "train": {"epochs": 3}}
    untouched = set(SECTIONS) - {"models", "train", *(target.partition(".")[0] for target in targets)}
    assert all(sections[section] == SECTIONS[section]() for section in untouched)


def test_stages_are_known_by_the_same_settings_as_without_models() -> None:
    sections = parse_sections({"models": {"graph_encoder": {"kind": "gcn"}, "text_encoder": {"encoder": "hashed"}}})
    text = {"encoder": "hashed"}
    graph = GraphSettings.model_validate(
        {"encoder": {"kind": "gcn"}, "build": {"features": text, "merge": {"text": text}}}
    )
    assert settings_hash(sections["graph"]) == settings_hash(graph)
    train = TrainSettings.model_validate({"captioner": {"inputs": {"graph_encoder": {"kind": "gcn"}}}})
    assert settings_hash(sections["train"]) == settings_hash(train)


def test_names_may_be_merged_by_another_text_encoder_than_that_of_the_nodes(tmp_path: Path) -> None:
    document = {
        "models": {"text_encoder": {"encoder": "bert", "pooling": "cls"}},
        "graph": {"build": {"merge": {"text": {"encoder": "minilm"}}}},
    }
    sections = parse_sections(document)
    build = sections["graph"].build
    assert (build.features.encoder, build.features.pooling) == ("bert", "cls")
    assert (build.merge.text.encoder, build.merge.text.pooling) == ("minilm", "cls")
    assert parse_sections(yaml.safe_load(render_sections(sections, heading="x", shown=()))) == sections


@pytest.mark.parametrize("shown", [None, (), ("train.epochs", "models.roi")])
def test_what_is_written_reads_back(tmp_path: Path, shown: tuple[str, ...] | None) -> None:
    sections = parse_sections(
        {"models": {model: {name: value} for model, (name, value) in CHANGES.items()}, "train": {"seeds": [3, 4]}}
    )
    path = tmp_path / "params.yaml"
    path.write_text(render_sections(sections, heading="x", shown=shown), encoding="utf-8")
    assert read_sections(path) == sections
    assert read_sections(path, ["train.epochs=7"])["train"].epochs == 7


def test_sections_of_stages_alone_are_written_with_their_models() -> None:
    sections = parse_sections({"models": {"text_encoder": {"encoder": "hashed"}, "graph_encoder": {"kind": "none"}}})
    text = render_sections({name: sections[name] for name in ("graph", "train")}, heading="x")
    assert parse_sections(yaml.safe_load(text)) == sections


@pytest.mark.parametrize(
    ("document", "said", "fix"),
    [
        ({"trian": {}}, "unknown section `trian`", "`train`"),
        ({"zzz": {}}, "unknown section `zzz`", "known sections: models"),
        ({"models": {"sma": {}}}, "unknown key `models.sma`", "`sam`"),
        ({"models": {"sam": {"varient": "mini"}}}, "unknown key `models.sam.varient`", "`variant`"),
        ({"models": {"sam": {"encoder_size": 1}}}, "`models.sam.encoder_size`", "correct"),
        ({"models": 3}, "section `models` must be a mapping", None),
        ({"masks": 3}, "section `masks` must be a mapping", None),
        ({"models": {"roi": {"output_size": 9}}, "regions": [1]}, "section `regions` must be a mapping", None),
    ],
)
def test_bad_documents(document: dict[str, Any], said: str, fix: str | None) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_sections(document, where="params.yaml")
    assert said in str(caught.value) and caught.value.where == "params.yaml"
    assert fix is None or fix in str(caught.value.fix)


def test_every_renamed_key_is_refused_with_its_new_name() -> None:
    for old, new in renamed_keys().items():
        with pytest.raises(SettingsError) as caught:
            resolve(document_of(old, 1), where="params.yaml")
        assert any(f"`{key}` → `{value}`" in caught.value.what for key, value in prefixes(old, new)), old
        assert "sagecc init" in str(caught.value.fix)


def prefixes(old: str, new: str) -> list[tuple[str, str]]:
    """Return the key and, where a section that holds it has another name as well, that section."""
    parts = old.split(".")
    parents = [".".join(parts[:end]) for end in range(1, len(parts))]
    return [(old, new), *((parent, renamed_keys()[parent]) for parent in parents if parent in renamed_keys())]


def test_new_names_are_keys_and_old_ones_are_not() -> None:
    sections = parse_sections({})
    current = {setting.key for name, section in sections.items() for setting in own_settings(name, section, sections)}
    current |= {key.rpartition(".")[0] for key in current} | {key.rsplit(".", 2)[0] for key in current}
    for old, new in renamed_keys().items():
        assert old not in current, old
        assert new in current, (old, new)
    assert all(section_at(sections, name) is not None for pair in SAME_CLASS for name in pair)
    assert all(section_at(sections, target) is not None for target in INDEPENDENT)


def test_an_old_file_is_refused_with_five_of_its_names() -> None:
    document = read_document(OLD)
    with pytest.raises(SettingsError) as caught:
        resolve(document, where="params.yaml")
    assert caught.value.what.count("→") == 5
    for pair in ("`scenes.backbone` → `models.backbone.backbone`", "`scenes.weights` → `models.backbone.weights`"):
        assert pair in caught.value.what
    assert "more" in caught.value.what and "sagecc init" in str(caught.value.fix)


@pytest.mark.parametrize("key", leaves(read_document(OLD)))
def test_no_key_of_an_old_file_is_unknown(key: str) -> None:
    value: Any = read_document(OLD)
    for part in key.split("."):
        value = value[part]
    name = key.partition(".")[0]
    try:
        parse_section(resolve(document_of(key, value))[name], name, SECTIONS[name])
    except SettingsError as error:
        assert "unknown" not in error.what, error


def test_one_renamed_key_among_others() -> None:
    document = {"train": {"batch": 3, "epochs": 2}, "masks": {"sam": {"variant": "vit_b", "weights": "x"}}}
    with pytest.raises(SettingsError) as caught:
        resolve(document)
    assert caught.value.what == (
        "2 keys have another name now: `train.batch` → `train.batch_size`, `masks.sam` → `models.sam`"
    )
    assert "train.batch" in RENAMED
    with pytest.raises(SettingsError) as caught:
        resolve({"train": {"batch": 3}})
    assert caught.value.what == "a key has another name now: `train.batch` → `train.batch_size`"
