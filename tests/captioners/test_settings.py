from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.captioners.settings import CaptionerSettings, GenerationSettings
from pipeline.config.sections import parse_section
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
        ({"scene": {"features": "none"}}, "set a fusion that takes some"),
        (
            {"scene": {"features": "none"}, "fusion": "release", "evidence": {"motion": False, "semantics": False}},
            "set a fusion that takes some",
        ),
    ],
)
def test_bad_captioners_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "captioner", CaptionerSettings)


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
    sections = [CaptionerSettings, GenerationSettings]
    for section in sections:
        for name, field in section.model_fields.items():
            assert field.description, name
            if name in ("scene", "decoder"):
                sections.append(field.annotation)


def test_settings_come_without_torch():
    code = "import sys, pipeline.captioners.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
