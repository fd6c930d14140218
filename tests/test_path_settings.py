from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.caption_graph.settings import LLMSettings
from pipeline.config import parse_section
from pipeline.errors import SettingsError
from pipeline.path_settings import expanded, literal_path
from stages.settings import SECTIONS


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/big")
    monkeypatch.delenv("NOWHERE", raising=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~/own", "shells expand `~`, settings are taken as they stand; write /home/me/own"),
        ("~", "write /home/me"),
        ("$DATA/own", "shells expand `$DATA`, settings are taken as they stand; write /big/own"),
        ("${DATA}/own", "write /big/own"),
        ("$NOWHERE/own", "this environment has no value for it: write the path in full"),
        ("%USERPROFILE%/own", "this environment has no value for it"),
        ("~nobody-of-this-name/own", "this environment has no value for it"),
    ],
)
def test_what_only_shells_expand_is_refused_with_the_path_that_is_meant(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="settings are taken as they stand") as caught:
        literal_path(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["own", "./~own", "/a/b~", "price$", "a$1", "features/{split}/{stem}.npy", ""])
def test_plain_paths_pass(text: str) -> None:
    assert literal_path(text) == text


def test_expansion() -> None:
    assert expanded("~/own") == "/home/me/own"
    assert expanded("$DATA/${DATA}") == "/big//big"
    assert expanded("~nobody-of-this-name/own") == "~nobody-of-this-name/own"


PATHS = {
    "prepare.root": {"dataset": "folder", "root": "~/x"},
    "prepare.captions": {"dataset": "folder", "root": "x", "captions": "~/x"},
    "prepare.folder.before": {"dataset": "folder", "root": "x", "folder": {"before": "~/x"}},
    "scenes.weights": {"weights": "~/x"},
    "masks.sam.weights": {"sam": {"weights": "~/x"}},
    "regions.head.weights": {"head": {"weights": "~/x"}},
    "matches.weights": {"weights": "~/x"},
    "semantics.grounding.weights": {"grounding": {"weights": "~/x"}},
    "semantics.grounding.text_encoder": {"grounding": {"text_encoder": "~/x"}},
    "semantics.source.root": {"source": {"root": "~/x"}},
    "semantics.source.file": {"source": {"file": "~/x"}},
    "semantics.source.before": {"source": {"before": "~/x"}},
    "graph.build.features.encoder": {"build": {"features": {"encoder": "~/x"}}},
    "graph.build.merge.overrides": {"build": {"merge": {"overrides": "~/x"}}},
    "graph.build.llm.prompts": {"build": {"llm": {"prompts": "~/x"}}},
}


@pytest.mark.parametrize("key", PATHS)
def test_every_setting_that_is_a_path(key: str) -> None:
    name = key.partition(".")[0]
    with pytest.raises(SettingsError, match="write /home/me/x") as caught:
        parse_section(PATHS[key], name, SECTIONS[name])
    assert f"`{key}`" in caught.value.what


def test_a_path_stays_a_path() -> None:
    assert LLMSettings(prompts=Path("prompts")).prompts == Path("prompts")
