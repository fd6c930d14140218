from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.captioners.fusion_settings import EvidenceSettings, PaperFusionSettings, ReleaseFusionSettings
from pipeline.captioners.settings import CaptionerSettings
from pipeline.config.sections import parse_section, settings_hash
from pipeline.errors import SettingsError

NOTHING = {"motion": False, "semantics": False, "graph": False}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion": "paper", "evidence": NOTHING}, "fusion .paper. has nothing to join"),
        ({"fusion": "release", "evidence": NOTHING}, "fusion .release. has nothing to join"),
        ({"fusion": "release", "release": {"heads": 7}}, "256. must be a multiple of release.heads .7."),
        ({"fusion": "release", "scene": {"channels": 24}}, "24. must be a multiple of release.heads .16."),
        ({"fusion": "both"}, "fusion"),
        ({"paper": {"centroid_width": 6}}, "a multiple of 4"),
        ({"evidence": {"top_q": 0}}, "top_q"),
        ({"evidence": {"motions": True}}, "did you mean|unknown key"),
    ],
)
def test_bad_fusions_are_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        parse_section(values, "captioner", CaptionerSettings)


def test_without_fusion_nothing_of_it_matters():
    parse_section({"evidence": NOTHING, "release": {"heads": 7}}, "captioner", CaptionerSettings)


def test_captioners_without_fusion_keep_their_settings_and_key():
    """Models that were trained before there was a fusion are known by these."""
    plain = CaptionerSettings()
    assert set(plain.model_dump(mode="json")) == {"scene", "decoder"}
    assert settings_hash(plain) == settings_hash(CaptionerSettings.model_validate({"evidence": NOTHING}))
    assert CaptionerSettings.model_validate({"scene": {}, "decoder": {}}).fusion == "none"


def test_each_fusion_is_known_by_what_it_uses():
    paper, release = (CaptionerSettings.model_validate({"fusion": kind}) for kind in ("paper", "release"))
    assert set(paper.model_dump()) == {"scene", "decoder", "fusion", "evidence", "paper"}
    assert set(release.model_dump()) == {"scene", "decoder", "fusion", "evidence", "release"}
    for chosen in (paper, release):
        assert CaptionerSettings.model_validate_json(chosen.model_dump_json()) == chosen


def test_every_setting_is_described():
    for section in (EvidenceSettings, PaperFusionSettings, ReleaseFusionSettings):
        assert all(field.description for field in section.model_fields.values())


def test_settings_come_without_torch():
    code = "import sys, pipeline.captioners.fusion_settings; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
