from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import CheckpointError
from pipeline.vision.grounding.detector import pad_to_square
from pipeline.vision.grounding.model import (
    LAYOUTS,
    GroundingDINO,
    NestedTensor,
    build_grounding_dino,
    deformable_attention,
    forward_with_states,
    load_weights,
)
from pipeline.vision.grounding.settings import GroundingSettings
from pipeline.weights import load_state_dict
from tests.vision.grounding.grounding_data import PRETRAINED, PUBLISHED_LIKE, TEXT_ENCODER, random_grounding_dino

CAPTIONS = ["building . swimming pool . road .", "parking lot ."]


def pictures(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


@pytest.mark.parametrize("published", [True, False])
def test_one_pass_equals_groundingdinos_own(published: bool) -> None:
    model = random_grounding_dino(PUBLISHED_LIKE if published else None)
    size = 64 if published else 128
    pixels, padding = pad_to_square(pictures((48, 64), (64, 40)), size, torch.device("cpu"))
    with torch.inference_mode():
        outputs = forward_with_states(model, pixels, padding, CAPTIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = model(NestedTensor(pixels, padding), captions=CAPTIONS)
    width = outputs.logits[-1].shape[-1]
    torch.testing.assert_close(outputs.logits[-1], expected["pred_logits"][..., :width], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.boxes[-1], expected["pred_boxes"], atol=1e-5, rtol=1e-4)
    assert outputs.queries.shape == (2, model.num_queries, model.hidden_dim)
    # The similarity of queries and text is the logit.
    logits = outputs.queries @ outputs.text.transpose(1, 2)
    finite = torch.isfinite(outputs.logits[-1])
    torch.testing.assert_close(outputs.logits[-1][finite], logits[finite])


def test_an_image_does_not_see_its_neighbours() -> None:
    torch.set_num_threads(1)
    one, two, three = pictures((64, 64), (48, 64), (64, 64))
    outputs = []
    for batch in ([one, two], [one, three]):
        pixels, padding = pad_to_square(batch, 64, torch.device("cpu"))
        with torch.inference_mode():
            outputs.append(forward_with_states(random_grounding_dino(), pixels, padding, ["building . road ."] * 2))
    assert torch.equal(outputs[0].logits[-1][0], outputs[1].logits[-1][0])
    assert torch.equal(outputs[0].boxes[-1][0], outputs[1].boxes[-1][0])


def test_running_is_silent() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import torch\n"
        "from pipeline.vision.grounding.model import forward_with_states\n"
        "from tests.vision.grounding.grounding_data import random_grounding_dino\n"
        "images, padding = torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)\n"
        "forward_with_states(random_grounding_dino(), images, padding, ['road .'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_sampling_against_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[3, 4], [2, 2]])
    value = torch.randn(2, 16, 2, 3, generator=generator)
    locations = torch.rand(2, 5, 2, 2, 2, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, 5, 2, 2, 2, generator=generator)
    attended = deformable_attention(value, shapes, locations, weights)
    expected = torch.zeros(2, 5, 2, 3)
    for index in np.ndindex(2, 5, 2, 2, 2):
        b, q, h, level, _ = index
        rows, columns = shapes[level].tolist()
        start = 0 if level == 0 else 12
        x, y = (locations[index] * torch.tensor([columns, rows]) - 0.5).tolist()
        for row in (int(np.floor(y)), int(np.floor(y)) + 1):
            for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                if 0 <= row < rows and 0 <= column < columns:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    expected[b, q, h] += share * weights[index] * value[b, start + row * columns + column, h]
    torch.testing.assert_close(attended, expected.flatten(2), atol=1e-5, rtol=1e-5)


def test_the_published_format_round_trips(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in random_grounding_dino().state_dict().items()}
    state["module.label_enc.weight"] = torch.zeros(3, 256)
    state["module.bert.embeddings.position_ids"] = torch.arange(4)[None]
    path = tmp_path / "groundingdino.pth"
    torch.save({"model": state}, path)
    other = build_grounding_dino(
        GroundingSettings(text_encoder=str(TEXT_ENCODER)), random_weights=True, seed=9, layout=PUBLISHED_LIKE
    )
    load_weights(other, load_state_dict(path), "swin_t", path)
    for name, tensor in random_grounding_dino().state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def build(path: Path) -> GroundingDINO:
    return build_grounding_dino(
        GroundingSettings(text_encoder=str(TEXT_ENCODER), weights=str(path)), layout=PUBLISHED_LIKE
    )


def test_files_that_are_no_such_model_are_refused(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in random_grounding_dino().state_dict().items()}
    extra = {**state, "stranger": torch.zeros(1)}
    save_file(extra, tmp_path / "extra.safetensors")
    with pytest.raises(CheckpointError, match="1 unknown, 0 missing and 0 differently"):
        build(tmp_path / "extra.safetensors")
    with pytest.raises(CheckpointError, match="not a Grounding DINO mini"):
        build(PRETRAINED / "scenes-mini.safetensors")
    state.pop("feat_map.weight")
    state["feat_map.bias"] = torch.zeros(2)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError, match="0 unknown, 1 missing and 1 differently"):
        build(tmp_path / "broken.safetensors")
    whole = (tmp_path / "broken.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        build(tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match="not there"):
        build(tmp_path / "absent.pth")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"model": Bomb()}, protocol=2))
    torch.save({"model": Bomb()}, tmp_path / "packed.pth")
    torch.save({"model": [1, 2]}, tmp_path / "list.pth")
    for name in ("bomb.pth", "packed.pth", "list.pth"):
        with pytest.raises(CheckpointError):
            build(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.long
@pytest.mark.parametrize(("variant", "millions"), [("swin_t", 172), ("swin_b", 233)])
def test_published_variants_have_their_published_size(variant: str, millions: int, tmp_path: Path) -> None:
    # transformers' default configuration of a BERT is that of bert-base-uncased.
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "vocab.txt").write_bytes((TEXT_ENCODER / "vocab.txt").read_bytes())
    settings = GroundingSettings(variant=variant, text_encoder=str(tmp_path))
    model = build_grounding_dino(settings, random_weights=True)
    used = sum(parameter.numel() for name, parameter in model.named_parameters() if "pooler" not in name)
    assert abs(used / 1e6 - millions) < 1
    assert LAYOUTS[settings.variant].queries == model.num_queries == 900
