from __future__ import annotations

import pickle
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config import parse_section, with_overrides
from pipeline.errors import CheckpointError, SettingsError
from pipeline.vision.matching.build import build_matcher, learned_matcher, training_hint
from pipeline.vision.matching.matcher import LearnedMatcher, collate
from pipeline.vision.matching.settings import PUBLISHED, LightGlueSettings, MatcherSettings, SuperGlueSettings
from pipeline.vision.matching.superglue import SuperGlue
from stages.settings import PretrainSettings
from tests.vision.matching.region_data import WIDTH, matcher_settings, random_pairs


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_weights_in_float16_come_back(tmp_path: Path, method: str) -> None:
    settings = matcher_settings(method, weights=str(tmp_path / "weights.safetensors"))
    matcher = learned_matcher(settings, WIDTH, seed=3).eval()
    save_file(
        {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for name, tensor in matcher.state_dict().items()
        },
        settings.weights,
    )
    loaded = build_matcher(settings, WIDTH)
    assert not loaded.training
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float32}
    batch = collate(random_pairs([(6, 5)]), 6)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), matcher(batch), rtol=0, atol=5e-3)


def test_same_seed_same_weights() -> None:
    one, same, other = (learned_matcher(matcher_settings("superglue"), WIDTH, seed=seed) for seed in (1, 1, 2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(one.final_proj.weight, other.final_proj.weight)


def test_a_published_file_loads_with_the_published_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "superglue_outdoor.pth"
    published = SuperGlue(PUBLISHED, 256)
    torch.save(published.state_dict(), path)
    settings = MatcherSettings(weights=str(path), superglue=PUBLISHED)
    loaded = build_matcher(settings, 256)
    assert isinstance(loaded, LearnedMatcher)
    for name, tensor in published.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    with pytest.raises(CheckpointError) as caught:
        build_matcher(MatcherSettings(weights=str(path)), 256)
    assert "published layout" in str(caught.value.fix)
    assert "keypoint_encoder: [32, 64, 128, 256], box_features: false" in str(caught.value.fix)
    with pytest.raises(SettingsError, match="64 channels"):
        build_matcher(settings, 64)


def test_weights_of_another_method_or_layout_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(learned_matcher(matcher_settings("lightglue"), WIDTH).state_dict(), path)
    with pytest.raises(CheckpointError, match="not this SuperGlue"):
        build_matcher(matcher_settings("superglue", weights=str(path)), WIDTH)
    with pytest.raises(CheckpointError, match="not this LightGlue"):
        build_matcher(matcher_settings("lightglue", weights=str(path), lightglue=LightGlueSettings()), WIDTH)


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_missing_weights_say_how_to_get_them(tmp_path: Path, method: str) -> None:
    settings = matcher_settings(method, weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(CheckpointError, match="are not there") as caught:
        build_matcher(settings, WIDTH)
    fix = str(caught.value.fix)
    # On one's own regions: the mini SAM's have other descriptors than any other SAM's.
    assert "sagecc pretrain matcher --prepared artifacts/prepared " in fix
    assert f"--set pretrain.matcher.method={method} " in fix
    assert f"--out {settings.weights}`" in fix
    assert "nearest" in fix


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_hinted_command_trains_the_matcher_of_the_settings(tmp_path: Path, method: str) -> None:
    settings = matcher_settings(method, weights=str(tmp_path / "a b" / "none.safetensors"))
    command = shlex.split(training_hint(settings).split("`")[1])
    changes = [word for before, word in pairwise(command) if before == "--set"]
    document = with_overrides({}, changes)
    trained = parse_section(document["pretrain"], "pretrain", PretrainSettings).matcher
    assert trained.method == settings.method
    assert getattr(trained, method) == getattr(settings, method)
    assert command[command.index("--out") + 1] == settings.weights


@pytest.mark.parametrize(
    "weights", ["artifacts/pretrained/matcher-mini.safetensors", "elsewhere/superglue_outdoor.pth"]
)
def test_hint_never_overwrites_published_weights(weights: str) -> None:
    hint = training_hint(matcher_settings("superglue", weights=weights))
    assert "--out artifacts/checkpoints/matcher.safetensors`" in hint
    assert "set matches.weights to artifacts/checkpoints/matcher.safetensors" in hint


@pytest.mark.parametrize("method", ["superglue", "lightglue"])
def test_descriptors_of_another_width_are_told_from_another_layout(tmp_path: Path, method: str) -> None:
    settings = matcher_settings(method, weights=str(tmp_path / "weights.safetensors"))
    save_file(learned_matcher(settings, 24).state_dict(), settings.weights)
    with pytest.raises(CheckpointError) as caught:
        build_matcher(settings, 32)
    assert caught.value.what == "the regions' descriptors have 32 channels, this matcher was trained on 24"
    assert caught.value.where == settings.weights
    assert "sagecc pretrain matcher --prepared artifacts/prepared " in str(caught.value.fix)


def test_a_file_that_runs_code_or_is_cut_short_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    evil, short = tmp_path / "evil.pth", tmp_path / "short.safetensors"
    evil.write_bytes(pickle.dumps({"bin_score": Evil()}))
    save_file(learned_matcher(matcher_settings("superglue"), WIDTH).state_dict(), short)
    short.write_bytes(short.read_bytes()[:-100])
    for path in (evil, short):
        with pytest.raises(CheckpointError, match="cannot be read"):
            build_matcher(matcher_settings("superglue", weights=str(path)), WIDTH)
    assert not (tmp_path / "ran").exists()


def test_nearest_needs_no_weights_and_has_none() -> None:
    build_matcher(matcher_settings("nearest", weights="nowhere"), WIDTH)
    with pytest.raises(SettingsError, match="no weights to train"):
        learned_matcher(matcher_settings("nearest"), WIDTH)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        SuperGlueSettings(width=30)
    with pytest.raises(ValueError, match="no multiple"):
        LightGlueSettings(width=36)


def test_the_matcher_that_ships_is_small_and_loads() -> None:
    path = Path(__file__).parents[3] / MatcherSettings().weights
    if not path.is_file():
        pytest.skip("not trained yet")
    assert path.stat().st_size <= 3_000_000
    build_matcher(MatcherSettings(weights=str(path)), 64)
