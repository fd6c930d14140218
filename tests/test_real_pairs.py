"""The whole road on the genuine LEVIR-CC pairs at hand: their captions are learnt word for word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.datasets.records import read_prepared
from pipeline.datasets.vocabulary import tokenize
from pipeline.execution.settings import EngineSettings
from pipeline.paths import Paths
from stages import caption, prepare, scenes, train
from stages.profiles import profile_sections
from tests.datasets.reference import reference

PROJECT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.reference_data
def test_three_real_pairs_are_learnt_word_for_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = reference("levir_cc")
    paths = Paths.under()
    shutil.copytree(PROJECT / paths.pretrained, tmp_path / paths.pretrained)
    monkeypatch.chdir(tmp_path)
    changes = [
        "prepare.allow_missing_images=true",
        "prepare.vocabulary.min_count=1",
        "train.epochs=100",
        "train.learning_rate=1.0e-3",
        "train.decay_every=60",
        "train.validate_every=20",
    ]
    sections = profile_sections("levir-cc", str(root), changes, mini=True)
    engine = EngineSettings(device="cpu")
    prepare.run(sections["prepare"], paths, engine=engine)
    scenes.run(sections["scenes"], paths, engine=engine)
    train.run(sections["train"], paths, engine=engine)
    caption.run(sections["caption"], paths, engine=engine)

    data = read_prepared(paths.prepared)
    said = {row["image_id"]: row["caption"] for row in json.loads((paths.captions / "seed-1.json").read_text())}
    assert sorted(said) == ["train_000016", "train_000051", "train_000054"]
    for pair in data.pairs:
        assert said[pair.id] in {" ".join(tokenize(reference)) for reference in pair.captions}
