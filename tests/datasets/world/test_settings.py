from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.config import parse_section, settings_hash
from pipeline.datasets.world.settings import WorldSettings
from pipeline.errors import SettingsError


def test_defaults_are_1080_pairs_of_128_metres() -> None:
    settings = WorldSettings()
    assert (settings.train, settings.val, settings.test) == (800, 80, 200)
    assert settings.extent == 128


def test_every_field_is_described() -> None:
    for kind in (WorldSettings, type(WorldSettings().nuisances)):
        assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"size": 64}, "96 and 256 metres"),
        ({"size": 512, "ground_sample_distance": 1.0}, "96 and 256 metres"),
        ({"size": 16}, "world.size"),
        ({"train": -1}, "world.train"),
        ({"unchanged_share": 1.5}, "world.unchanged_share"),
        ({"nuisances": {"seson": 1}}, "season"),
    ],
)
def test_unusable_settings_are_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_section(values, "world", WorldSettings)
    assert named in str(caught.value)


def test_the_hash_follows_the_nuisances() -> None:
    other = WorldSettings.model_validate({"nuisances": {"season": 0.5}})
    assert settings_hash(other) != settings_hash(WorldSettings())


def test_settings_come_without_the_drawing_libraries() -> None:
    script = (
        "import sys; from pipeline.datasets.world.settings import WorldSettings; WorldSettings(); "
        "print([name for name in ('numpy', 'scipy', 'shapely', 'PIL', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
