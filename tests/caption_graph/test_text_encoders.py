from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.caption_graph.text_encoders import TextEncoderSettings, build_text_encoder, find_model, text_encoder_files
from pipeline.errors import CheckpointError, ServiceError
from tests.worlds.text_encoder import write_bert


def test_hashed_vectors_depend_on_spelling_alone() -> None:
    encoder = build_text_encoder(TextEncoderSettings(encoder="hashed", width=512))
    pool, swimming, house, empty = encoder.encode(["pool", "swimming pool", "house", ""])
    assert pool.shape == (encoder.width,) == (512,)
    assert pool @ swimming > 0.4 > abs(pool @ house)
    assert not empty.any()
    assert np.allclose(np.linalg.norm(swimming), 1)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_of_bert_gives_vectors_that_do_not_depend_on_their_company(tiny_bert: Path, pooling: str) -> None:
    encoder = build_text_encoder(TextEncoderSettings(encoder=str(tiny_bert), pooling=pooling))
    together = encoder.encode(["road", "swimming pool", "house"])
    assert together.dtype == np.float32
    assert together.shape == (3, 16)
    assert np.array_equal(together[0], encoder.encode(["road"])[0])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert str(tiny_bert.parent) not in str(encoder.identity)
    assert len(encoder.identity["files"]["model.safetensors"]) == 64


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json"],
)
def test_every_file_that_decides_the_vectors_is_in_the_digests(tmp_path: Path, name: str) -> None:
    folder = write_bert(tmp_path / "bert")
    settings = TextEncoderSettings(encoder=str(folder))
    before = text_encoder_files(settings)
    assert before == build_text_encoder(settings).identity["files"]
    path = folder / name
    path.write_bytes((path.read_bytes() if path.exists() else b"{}") + b" ")
    after = text_encoder_files(settings)
    assert {file for file in after if after[file] != before.get(file)} == {name}
    (folder / "README.md").write_text("of no importance")
    assert text_encoder_files(settings) == after
    assert text_encoder_files(TextEncoderSettings(encoder="hashed")) == {}


def test_damaged_and_missing_folders_are_named(tiny_bert: Path, tmp_path: Path) -> None:
    for name in ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_bert / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        build_text_encoder(TextEncoderSettings(encoder=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="cannot read the text encoder"):
        build_text_encoder(TextEncoderSettings(encoder=str(tmp_path)))
    with pytest.raises(CheckpointError, match="folder is not there"):
        find_model("./absent")


def test_without_a_network_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ServiceError, match="no route to host") as caught:
        find_model("bert-base-uncased")
    assert "minilm" in str(caught.value)


def test_minilm_comes_with_the_installation_and_knows_meanings() -> None:
    encoder = build_text_encoder(TextEncoderSettings())
    car, vehicle, grass = encoder.encode(["car", "vehicle", "grass"])
    assert car.shape == (384,)
    assert car @ vehicle > 0.7 > car @ grass
