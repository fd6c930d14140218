from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cache.reader import Cache, cache_sha256
from pipeline.cache.schema import Expectation
from pipeline.config import settings_hash
from pipeline.datasets.images import read_rgb
from pipeline.datasets.records import read_prepared, write_prepared
from pipeline.errors import CacheError, CheckpointError, DataError, SettingsError
from pipeline.execution.settings import EngineSettings
from pipeline.files import sha256_file
from pipeline.vision.grounding.cache import SCHEMA, SemanticSet, read_semantics
from pipeline.vision.grounding.detector import pad_to_square, select_detections, token_similarity
from pipeline.vision.grounding.model import build_grounding_dino, forward_with_states
from pipeline.vision.grounding.prompts import category_tokens, load_text_encoder
from pipeline.vision.grounding.settings import parse_prompts
from pipeline.vision.grounding.worker import SemanticWorker
from pipeline.vision.sam.boxes import masks_from_boxes
from pipeline.vision.sam.cache import SCHEMA as MASKS
from pipeline.vision.sam.decoder import PromptDecoder
from pipeline.vision.sam.encoder import ImageEncoder
from pipeline.vision.sam.model import build_sam
from pipeline.vision.sam.settings import GeneratorSettings
from stages import masks, semantics
from stages.settings import MasksSettings
from tests.places import at
from tests.vision.grounding.grounding_data import TEXT_ENCODER
from tests.vision.regions.plain import align, pool
from tests.worlds.region_data import images_of, write_image
from tests.worlds.semantic_data import make, with_grounding, write_grounding

INLINE = EngineSettings(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(path: Path) -> list[SemanticSet]:
    with Cache.open(path, SCHEMA) as cache:
        return [read_semantics(cache, unit) for unit in range(2 * len(cache.ids))]


def test_what_is_written_is_what_the_models_say(folder: Path) -> None:
    prepared, settings = make(folder)
    path = semantics.run(settings, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=INLINE)
    data = read_prepared(prepared)
    with Cache.open(path, SCHEMA, expect=Expectation(settings_hash=settings_hash(settings))) as cache:
        assert cache.ids == tuple(pair.id for pair in data.pairs)
        assert cache.provenance.upstream == {"pairs.jsonl": data.card.pairs_sha256}
        text_encoder = {f"text_encoder/{name}" for name in ("config.json", "tokenizer_config.json", "vocab.txt")}
        assert set(cache.provenance.weights) == {"grounding_dino", "sam"} | text_encoder
        cache.verify()
    model, sam = build_grounding_dino(settings.grounding), build_sam(settings.sam)
    caption, tokens = category_tokens(model.tokenizer, parse_prompts(settings.grounding.prompts))
    encoder, decoder = ImageEncoder(sam, settings.sam, "cpu"), PromptDecoder(sam, "cpu")
    for file, stored in zip(images_of(data), contents(path), strict=True):
        image = read_rgb(file)
        pixels, padding = pad_to_square([image], 64, torch.device("cpu"))
        with torch.inference_mode():
            outputs = forward_with_states(model, pixels, padding, [caption.text])
            detections = select_detections(outputs, tokens, settings.grounding, 0, (64, 64), 64)
            similarity = token_similarity(outputs.queries[0][detections.query_indices], outputs.text[0], tokens)
        assert len(stored) == len(detections) > 0
        np.testing.assert_allclose(stored.boxes, detections.boxes, atol=1e-2)
        np.testing.assert_allclose(stored.scores, detections.scores, atol=1e-4)
        np.testing.assert_array_equal(stored.category, detections.categories)
        np.testing.assert_allclose(stored.similarity, similarity, atol=2e-3)
        np.testing.assert_allclose(stored.embeddings, outputs.queries[0][detections.query_indices], atol=1e-2)
        best = set(np.argsort(-similarity.numpy().max(1), kind="stable")[: settings.top_q].tolist())
        assert set(np.flatnonzero(stored.selected).tolist()) == best
        masks = masks_from_boxes(decoder, encoder.encode([image]), [stored.boxes], [(64, 64)])[0].bitmaps
        assert (stored.masks == masks).mean() > 0.99
        assert stored.descriptors.shape == (len(detections), encoder.channels)
        covered = stored.masks.any(0)
        np.testing.assert_array_equal(stored.map > 0, covered)
        top = stored.masks.argmax(0)
        np.testing.assert_array_equal(stored.map[covered], stored.category[top[covered]] + 1)
        np.testing.assert_array_equal(stored.map_score[covered], np.round(stored.scores * 255)[top[covered]])


def test_what_is_written_of_pictures_that_are_not_square_against_plain_loops(folder: Path) -> None:
    prepared, settings = make(folder, ((40, 96), (96, 48)), map_size=32)
    path = semantics.run(settings, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=INLINE)
    model, sam = build_grounding_dino(settings.grounding), build_sam(settings.sam)
    encoder = ImageEncoder(sam, settings.sam, "cpu")
    caption, _ = category_tokens(model.tokenizer, parse_prompts(settings.grounding.prompts))
    for file, stored in zip(images_of(read_prepared(prepared)), contents(path), strict=True):
        image = read_rgb(file)
        height, width = image.shape[:2]
        side = max(height, width)
        assert len(stored) > 2
        # Of the boxes: every one is a share of the square around the picture, cut off at the picture's edges.
        pixels, padding = pad_to_square([image], 64, torch.device("cpu"))
        with torch.inference_mode():
            outputs = forward_with_states(model, pixels, padding, [caption.text])
        x, y, across, down = (outputs.boxes[-1][0].double().numpy() * side).T
        possible = np.stack([x - across / 2, y - down / 2, x + across / 2, y + down / 2], axis=1)
        possible = possible.clip(0, [width, height, width, height])
        for box in stored.boxes:
            assert np.abs(possible - box).max(1).min() < 0.05
        # Of the descriptors: RoIAlign on the cells of SAM's feature map that show the picture, then the mean.
        rows, columns = -(-height * 16 // side), -(-width * 16 // side)
        feature = encoder.encode([image])[0, :, :rows, :columns].double().numpy()
        for box, descriptor in zip(stored.boxes[:2], stored.descriptors[:2], strict=True):
            expected = pool(align(feature, box.astype(float) * 16 / side, 14, 0), 7).mean((1, 2))
            np.testing.assert_allclose(descriptor, expected, atol=6e-3)
        assert stored.descriptors.std() > 0.05
        # Of the map: the category of the best mask at the middle of each of its pixels.
        assert stored.masks.shape[1:] == (height, width) and stored.map.shape == (32, 32)
        down_to = ((np.arange(32) + 0.5) * height / 32).astype(int)
        across_to = ((np.arange(32) + 0.5) * width / 32).astype(int)
        order = np.argsort(-stored.scores, kind="stable")
        for row, picture_row in enumerate(down_to):
            for column, picture_column in enumerate(across_to):
                covering = [k for k in order if stored.masks[k, picture_row, picture_column]]
                assert stored.map[row, column] == (stored.category[covering[0]] + 1 if covering else 0)


def test_stored_embeddings_are_used_where_they_are_those_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, settings = make(folder)
    plain = contents(semantics.run(settings, at(prepared=prepared, semantics=folder / "plain.h5"), engine=INLINE))
    kept = MasksSettings(sam=settings.sam, generator=GeneratorSettings(points_per_side=2), store_embeddings=True)
    stored = masks.run(kept, at(prepared=prepared, masks=folder / "masks.h5"), engine=INLINE)
    bare = masks.run(
        kept.model_copy(update={"store_embeddings": False}),
        at(prepared=prepared, masks=folder / "bare.h5"),
        engine=INLINE,
    )
    encoded = []
    encode = ImageEncoder.encode
    monkeypatch.setattr(ImageEncoder, "encode", lambda *given: encoded.append(1) or encode(*given))
    with_stored = semantics.run(
        settings, at(prepared=prepared, semantics=folder / "stored.h5", masks=stored), engine=INLINE
    )
    assert not encoded
    with Cache.open(with_stored, SCHEMA) as cache:
        assert cache.provenance.upstream["masks.h5"] == cache_sha256(stored, MASKS)
    for mine, its in zip(contents(with_stored), plain, strict=True):
        np.testing.assert_array_equal(mine.boxes, its.boxes)
        assert (mine.masks == its.masks).mean() > 0.999
        np.testing.assert_allclose(mine.descriptors, its.descriptors, atol=2e-3)
    # Else what the first run computed would do.
    shutil.rmtree(folder / ".work")
    semantics.run(settings, at(prepared=prepared, semantics=folder / "again.h5", masks=bare), engine=INLINE)
    assert encoded


def test_batches_do_not_show_in_the_bytes_and_a_second_run_does_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, settings = make(folder)
    path = semantics.run(settings, at(prepared=prepared, semantics=folder / "a.h5"), engine=INLINE)
    whole = sha256_file(path)
    shutil.rmtree(folder / ".work")
    data = read_prepared(prepared)
    write_prepared(folder / "few", "folder", data.card.root, data.pairs[1:2])
    semantics.run(settings, at(prepared=folder / "few", semantics=folder / "b.h5"), engine=INLINE)
    assert (
        sha256_file(semantics.run(settings, at(prepared=prepared, semantics=folder / "c.h5"), engine=INLINE)) == whole
    )

    def refuse(*_: object) -> None:
        raise RuntimeError("a model was loaded")

    monkeypatch.setattr(SemanticWorker, "__init__", refuse)
    before = path.stat().st_mtime_ns
    semantics.run(settings, at(prepared=prepared, semantics=path), engine=INLINE)
    assert path.stat().st_mtime_ns == before


def test_other_settings_and_weights_never_reuse_shards(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64),))
    first = semantics.run(settings, at(prepared=prepared, semantics=folder / "a.h5"), engine=INLINE)
    second = semantics.run(
        with_grounding(settings, max_boxes=2), at(prepared=prepared, semantics=folder / "b.h5"), engine=INLINE
    )
    write_grounding(folder, seed=2)
    third = semantics.run(settings, at(prepared=prepared, semantics=folder / "c.h5"), engine=INLINE)
    assert len(contents(first)[0]) == 6
    assert len(contents(second)[0]) == 2
    assert not np.array_equal(contents(first)[0].boxes, contents(third)[0].boxes)
    with pytest.raises(CacheError, match="other settings"):
        Cache.open(second, SCHEMA, expect=Expectation(settings_hash=settings_hash(settings)))


def test_regions_by_another_text_encoder_are_made_anew(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64),))
    text_encoder = folder / "text-encoder"
    load_text_encoder(settings.grounding.text_encoder)[0].save_pretrained(text_encoder)
    shutil.copy(TEXT_ENCODER / "config.json", text_encoder)
    settings = with_grounding(settings, text_encoder=str(text_encoder))
    paths = at(prepared=prepared, semantics=folder / "a.h5")

    def weights() -> dict[str, str]:
        with Cache.open(semantics.run(settings, paths, engine=INLINE), SCHEMA) as cache:
            return dict(cache.provenance.weights)

    last = weights()
    for name in ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        assert last[f"text_encoder/{name}"] == sha256_file(text_encoder / name)
    # Nothing but the file's layout changes, so that the models can still be built; the key cannot know that.
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        path = text_encoder / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
        now = weights()
        assert {file for file in now if now[file] != last[file]} == {f"text_encoder/{name}"}
        last = now


def test_images_without_regions_are_empty(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64),))
    none = with_grounding(settings, box_threshold=0.9999)
    for stored in contents(
        semantics.run(none, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=INLINE)
    ):
        assert len(stored) == 0
        assert not stored.map.any()
        assert stored.masks.shape == (0, 64, 64)


def test_sizes_that_differ_need_a_size_for_the_maps(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64), (48, 64)))
    with pytest.raises(DataError, match="64×48 pixels, the first one 64×64") as caught:
        semantics.run(settings, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=INLINE)
    assert str(caught.value.fix).startswith("set semantics.map_size to the side")
    assert "or set engine.on_bad_item to skip" in str(caught.value.fix)
    resizing = settings.model_copy(update={"map_size": 32})
    stored = contents(semantics.run(resizing, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=INLINE))
    assert [one.map.shape for one in stored] == [(32, 32)] * 4
    assert [one.masks.shape[1:] for one in stored] == [(64, 64)] * 2 + [(48, 64)] * 2
    assert (stored[2].boxes <= [64, 48, 64, 48]).all()


def test_the_aligned_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, settings = make(folder)
    aligned = settings.model_copy(update={"space": "aligned", "alignment_images": 4, "select": "category"})
    path = semantics.run(aligned, at(prepared=prepared, semantics=folder / "a.h5"), engine=INLINE)
    again = semantics.run(aligned, at(prepared=prepared, semantics=folder / "b.h5"), engine=INLINE)
    assert sha256_file(path) == sha256_file(again)
    shutil.rmtree(folder / ".work")
    assert sha256_file(path) == sha256_file(
        semantics.run(aligned, at(prepared=prepared, semantics=folder / "c.h5"), engine=INLINE)
    )
    with Cache.open(path, SCHEMA) as cache:
        assert "alignment" in cache.provenance.weights
    plain = contents(semantics.run(settings, at(prepared=prepared, semantics=folder / "d.h5"), engine=INLINE))
    for one, other in zip(contents(path), plain, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.descriptors, other.descriptors)
        assert not np.array_equal(one.similarity, other.similarity)
        counts = np.bincount(one.category[one.selected], minlength=3)
        np.testing.assert_array_equal(counts, np.minimum(np.bincount(one.category, minlength=3), settings.top_q))
    nothing = with_grounding(aligned, box_threshold=0.9999)
    with pytest.raises(DataError, match="no map can be fitted"):
        semantics.run(nothing, at(prepared=prepared, semantics=folder / "e.h5"), engine=INLINE)


def test_a_bad_image_is_named_or_skipped(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64),) * 2)
    write_image(folder / "images" / "B" / "pair_001.png", 64, 64, np.random.default_rng(7))
    with pytest.raises(DataError, match="changed since"):
        semantics.run(settings, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=INLINE)
    assert not (folder / "semantics.h5").exists()
    skipping = EngineSettings(device="cpu", on_bad_item="skip")
    with Cache.open(
        semantics.run(settings, at(prepared=prepared, semantics=folder / "semantics.h5"), engine=skipping),
        SCHEMA,
    ) as cache:
        assert cache.missing.tolist() == [3]
        assert len(read_semantics(cache, 3)) == 0
    assert "pair_001 after" in (folder / "semantics.failures.json").read_text()


def test_bad_settings_are_refused_before_any_image_is_read(folder: Path) -> None:
    prepared, settings = make(folder, ((64, 64),))
    (folder / "images" / "A" / "pair_000.png").write_bytes(b"")
    sized = settings.model_copy(update={"map_size": 64})
    with pytest.raises(SettingsError, match="not know every word"):
        semantics.run(
            with_grounding(sized, prompts=("quay",)),
            at(prepared=prepared, semantics=folder / "s.h5"),
            engine=INLINE,
        )
    with pytest.raises(CheckpointError, match="weights of SAM are not there"):
        no_sam = sized.model_copy(update={"sam": settings.sam.model_copy(update={"weights": "sam_vit_b_01ec64.pth"})})
        semantics.run(no_sam, at(prepared=prepared, semantics=folder / "s.h5"), engine=INLINE)
    with pytest.raises(CheckpointError, match="weights of Grounding DINO are not there"):
        semantics.run(
            with_grounding(sized, weights="absent.pth"),
            at(prepared=prepared, semantics=folder / "s.h5"),
            engine=INLINE,
        )
    write_prepared(folder / "empty", "folder", "images", [])
    with pytest.raises(DataError, match="no pairs"):
        semantics.run(settings, at(prepared=folder / "empty", semantics=folder / "s.h5"), engine=INLINE)
