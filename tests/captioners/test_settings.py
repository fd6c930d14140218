from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.captioners.registry import CAPTIONERS
from pipeline.captioners.settings import (
    ConditionVectorSettings,
    CrossAttentionSettings,
    GenerationSettings,
    SageCCSettings,
    SideInputSettings,
)
from pipeline.config import parse_section, settings_hash
from pipeline.errors import SettingsError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder": {"width": 100, "heads": 8}}, "width .100. must be a multiple of heads .8."),
        ({"scene": {"width": 36, "heads": 8}}, "width .36. must be a multiple of heads .8."),
        ({"scene": {"width": 10, "heads": 2}}, "and of 4"),
        ({"scene": {"norm": "batch"}}, "norm"),
        ({"scene": {"block": 3}}, "unknown key"),
        ({"decoder": {"dropout": 1.0}}, "dropout"),
        ({"scene": {"features": "none"}}, "set a fusion that reads some"),
        (
            {"scene": {"features": "none"}, "fusion": "release", "inputs": {"regions": False, "semantics": False}},
            "set a fusion that reads some",
        ),
    ],
)
def test_bad_captioners_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "captioner", SageCCSettings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beams": 2, "n_best": 3}, "n_best .3. must not exceed beams .2."),
        ({"max_length": 5, "min_length": 4}, "min_length .4. must leave room"),
        ({"beams": 0}, "beams"),
        ({"length_penalty": -1}, "length_penalty"),
    ],
)
def test_bad_generation_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "generation", GenerationSettings)


def test_every_setting_is_described():
    sections = [SageCCSettings, GenerationSettings]
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, name
            if name in ("scene", "decoder"):
                sections.append(field.annotation)


def test_settings_come_without_torch():
    code = "import sys, pipeline.captioners.settings; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


NOTHING = {"regions": False, "semantics": False, "graph": False}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": "paper", "inputs": NOTHING}, "fusion .paper. has nothing to join"),
        ({"fusion": "release", "inputs": NOTHING}, "fusion .release. has nothing to join"),
        ({"fusion": "release", "release": {"heads": 7}}, "256. must be a multiple of release.heads .7."),
        ({"fusion": "release", "scene": {"channels": 24}}, "24. must be a multiple of release.heads .16."),
        ({"fusion": "both"}, "fusion"),
        ({"paper": {"centroid_width": 6}}, "a multiple of 4"),
        ({"inputs": {"top_q": 0}}, "top_q"),
        ({"inputs": {"region": True}}, "did you mean|unknown key"),
    ],
)
def test_bad_fusions_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "captioner", SageCCSettings)


def test_without_fusion_nothing_of_it_matters():
    parse_section({"inputs": NOTHING, "release": {"heads": 7}}, "captioner", SageCCSettings)


def test_captioners_without_fusion_keep_their_settings_and_key():
    plain = SageCCSettings()
    assert set(plain.model_dump(mode="json")) == {"kind", "scene", "decoder"}
    assert settings_hash(plain) == settings_hash(SageCCSettings.model_validate({"inputs": NOTHING}))
    assert SageCCSettings.model_validate({"scene": {}, "decoder": {}}).fusion == "none"


def test_each_fusion_is_known_by_what_it_uses():
    paper, release = (SageCCSettings.model_validate({"fusion": kind}) for kind in ("paper", "release"))
    assert set(paper.model_dump()) == {"kind", "scene", "decoder", "fusion", "inputs", "paper"}
    assert set(release.model_dump()) == {"kind", "scene", "decoder", "fusion", "inputs", "release"}
    for chosen in (paper, release):
        assert SageCCSettings.model_validate_json(chosen.model_dump_json()) == chosen


def test_every_setting_of_a_fusion_is_described():
    for section in (SideInputSettings, ConditionVectorSettings, CrossAttentionSettings):
        assert all(field.description for field in section.model_fields.values())


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ("scenes",)),
        ({"fusion": "paper"}, ("scenes", "regions", "semantics", "graph")),
        ({"fusion": "release", "inputs": {"semantics": False}}, ("scenes", "regions", "graph")),
        ({"fusion": "release", "scene": {"features": "none"}}, ("regions", "semantics", "graph")),
        ({"inputs": NOTHING}, ("scenes",)),
    ],
)
def test_a_captioner_names_the_inputs_that_it_reads(values, names):
    assert SageCCSettings.model_validate(values).input_names() == names


def test_two_captioners_under_one_name_are_refused():
    with pytest.raises(SettingsError, match="two definitions of the captioner 'sage-cc'") as caught:
        CAPTIONERS.register("sage-cc", "other.package:OtherSettings")
    assert "pipeline.captioners.settings:SageCCSettings and other.package:OtherSettings" in caught.value.what
    assert caught.value.where == "train.captioner.kind" and "another name" in caught.value.fix
    assert CAPTIONERS.resolve("sage-cc") is SageCCSettings
