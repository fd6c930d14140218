from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import checkpoints
from pipeline.checkpoints import CHECKPOINTS, MINI_MODELS, fetch, missing_advice, shipped
from pipeline.errors import CheckpointError, ServiceError
from pipeline.files import sha256_file

CONTENT = b"weights" * 1000


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "resnet18-f37072fd.pth").write_bytes(CONTENT)
    (tmp_path / "www" / "bert-base-uncased").mkdir()
    (tmp_path / "www" / "bert-base-uncased" / "vocab.txt").write_bytes(CONTENT)
    (tmp_path / "www" / "bert-base-uncased" / "config.json").write_bytes(CONTENT * 2)
    handler = functools.partial(_Silent, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


def register(monkeypatch: pytest.MonkeyPatch, url: str, sha256: str) -> None:
    entry = dataclasses.replace(CHECKPOINTS["resnet18"], url=url, sha256=sha256)
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "resnet18", entry)


def test_fetch_checks_and_keeps(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}/resnet18-f37072fd.pth", hashlib.sha256(CONTENT).hexdigest()[:8])
    pieces: list[int] = []
    path = fetch("resnet18", folder=tmp_path / "out", advance=pieces.append)
    assert path.read_bytes() == CONTENT
    assert sum(pieces) == len(CONTENT)
    pieces.clear()
    assert fetch("resnet18", folder=tmp_path / "out", advance=pieces.append) == path
    assert pieces == []


def test_wrong_content_is_refused(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}/resnet18-f37072fd.pth", "0" * 64)
    with pytest.raises(CheckpointError, match="not the published"):
        fetch("resnet18", folder=tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_unreachable_address_and_unknown_name(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}/nothing-here", "0" * 64)
    with pytest.raises(ServiceError, match="cannot download"):
        fetch("resnet18", folder=tmp_path / "out")
    with pytest.raises(CheckpointError, match="no checkpoint is called"):
        fetch("resnet17", folder=tmp_path / "out")


def test_a_folder_is_fetched_whole_and_its_main_file_last(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = CHECKPOINTS["bert-base-uncased"]
    (config,) = published.companions

    def register_bert(config_sha256: str) -> None:
        here = dataclasses.replace(config, url=f"{server}/{config.file}", sha256=config_sha256)
        entry = dataclasses.replace(
            published, url=f"{server}/{published.file}", sha256=hashlib.sha256(CONTENT).hexdigest(), companions=(here,)
        )
        monkeypatch.setitem(checkpoints.CHECKPOINTS, "bert-base-uncased", entry)

    register_bert("0" * 64)
    with pytest.raises(CheckpointError, match="configuration"):
        fetch("bert-base-uncased", folder=tmp_path / "out")
    assert not (tmp_path / "out" / published.file).exists()
    register_bert(hashlib.sha256(CONTENT * 2).hexdigest())
    path = fetch("bert-base-uncased", folder=tmp_path / "out")
    assert path == tmp_path / "out" / "bert-base-uncased" / "vocab.txt"
    assert {file.name for file in path.parent.iterdir()} == {"vocab.txt", "config.json"}
    assert path.with_name("config.json").read_bytes() == CONTENT * 2


def test_the_vocabulary_is_that_of_the_package_whose_model_descends_from_it() -> None:
    from pipeline.caption_graph.text_encoders import find_model

    # all-MiniLM-L6-v2 kept BERT's words.
    assert sha256_file(find_model("minilm") / "vocab.txt") == CHECKPOINTS["bert-base-uncased"].sha256


def test_registry_agrees_with_torchvision() -> None:
    from torchvision.models import get_model_weights

    for name in ("resnet18", "resnet50", "resnet101"):
        published = get_model_weights(name)["IMAGENET1K_V1"]
        assert CHECKPOINTS[name].url == published.url
        assert CHECKPOINTS[name].megabytes == published.meta["_file_size"]


def test_advice_names_source_size_licence_and_command() -> None:
    advice = missing_advice(Path("somewhere") / CHECKPOINTS["resnet101"].file)
    assert advice is not None
    for part in ("sagecc checkpoints fetch resnet101", "171 MB", CHECKPOINTS["resnet101"].url, "ImageNet"):
        assert part in advice
    assert missing_advice(Path("my-own.pth")) is None
    for file, model in (("sam-mini.safetensors", "sam"), ("grounding-dino-mini/vocab.txt", "grounding-dino")):
        mini = str(missing_advice(Path("somewhere") / file))
        assert mini.startswith("they ship with sagecc's repository")
        assert mini.endswith(f"train them with `sagecc pretrain {model}`")


def test_models_that_ship_are_read_from_the_repository_unless_the_project_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = MINI_MODELS / "sam-mini.safetensors"
    assert shipped(path).is_absolute()
    assert shipped(path).is_file()
    assert missing_advice(path) is None
    for other in (Path("sam-mini.safetensors"), tmp_path / path, MINI_MODELS / "none.safetensors"):
        assert shipped(other) == other
    path.parent.mkdir(parents=True)
    path.touch()
    assert shipped(path) == path
    for file in ("vocab.txt", "config.json"):
        advice = missing_advice(Path("bert-base-uncased") / file)
        assert advice is not None
        assert "sagecc checkpoints fetch bert-base-uncased` (0.2 MB" in advice
        assert missing_advice(Path("my-own") / file) is None
