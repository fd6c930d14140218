"""Registry of published weights and vocabularies: address, SHA-256, size, licence. Only `fetch` downloads them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pipeline.errors import CheckpointError, ServiceError
from pipeline.files import atomic_path, sha256_file

FOLDER = Path("artifacts/checkpoints")
"""Where fetched weights lie, relative to the project folder."""
MINI_MODELS = Path("artifacts/pretrained")
"""Where the mini models lie, relative to the project folder and to the repository's."""
_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Checkpoint:
    """One published file: weights, a vocabulary or a configuration.

    Attributes:
        name: Its name in `sagecc checkpoints fetch`.
        file: Its file name, with the folder where one model has several files.
        url: Its address.
        sha256: The SHA-256 of its content, or the leading digits of it that its publisher states.
        megabytes: Its size in units of 2^20 bytes.
        licence: Terms of the weights.
        used_by: The setting that takes its path, or its folder's.
        companions: Small files of the same folder that it needs; fetched with it.
    """

    name: str
    file: str
    url: str
    sha256: str
    megabytes: float
    licence: str
    used_by: str
    companions: tuple[Checkpoint, ...] = ()

    @property
    def path(self) -> Path:
        """Where `fetch` puts the file, relative to the project folder."""
        return FOLDER / self.file

    @property
    def size(self) -> str:
        """Its size as a user reads it."""
        return f"{self.megabytes:.0f} MB" if self.megabytes >= 1 else f"{self.megabytes:.1f} MB"


_IMAGENET = "code BSD-3-Clause; weights trained on ImageNet (research use)"


def _torchvision(name: str, file: str, megabytes: float) -> Checkpoint:
    digits = file.rpartition("-")[2].removesuffix(".pth")
    address = f"https://download.pytorch.org/models/{file}"
    return Checkpoint(name, file, address, digits, megabytes, _IMAGENET, "models.backbone.weights")


def _sam(variant: str, digits: str, megabytes: float, sha256: str) -> Checkpoint:
    file = f"sam_{variant}_{digits}.pth"
    address = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    return Checkpoint(f"sam-{variant}", file, address, sha256, megabytes, "Apache-2.0", "models.sam.weights")


def _grounding_dino(name: str, release: str, file: str, megabytes: float, sha256: str) -> Checkpoint:
    address = f"https://github.com/IDEA-Research/GroundingDINO/releases/download/{release}/{file}"
    return Checkpoint(name, file, address, sha256, megabytes, "Apache-2.0", "models.grounding_dino.weights")


def _bert(name: str, file: str, megabytes: float, sha256: str, companions: tuple[Checkpoint, ...] = ()) -> Checkpoint:
    # One revision of the repository, since a later one may not have these bytes.
    folder = "https://huggingface.co/google-bert/bert-base-uncased/resolve/86b5e0934494bd15c9632b12f734a8a67f723594"
    path = f"bert-base-uncased/{file}"
    return Checkpoint(
        name,
        path,
        f"{folder}/{file}",
        sha256,
        megabytes,
        "Apache-2.0",
        "models.grounding_dino.text_encoder",
        companions,
    )


CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        _torchvision("resnet18", "resnet18-f37072fd.pth", 44.661),
        _torchvision("resnet50", "resnet50-0676ba61.pth", 97.781),
        _torchvision("resnet101", "resnet101-63fe2227.pth", 170.511),
        _sam("vit_b", "01ec64", 357.668, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
        _sam("vit_l", "0b3195", 1191.640, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
        _sam("vit_h", "4b8939", 2445.746, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
        _grounding_dino(
            "grounding-dino-swin_t",
            "v0.1.0-alpha",
            "groundingdino_swint_ogc.pth",
            661.848,
            "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
        ),
        _grounding_dino(
            "grounding-dino-swin_b",
            "v0.1.0-alpha2",
            "groundingdino_swinb_cogcoor.pth",
            894.602,
            "46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7",
        ),
        # Words and layout of Grounding DINO's BERT; its weights are in Grounding DINO's file.
        _bert(
            "bert-base-uncased",
            "vocab.txt",
            0.221,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            (
                _bert(
                    "bert-base-uncased's configuration",
                    "config.json",
                    0.001,
                    "7160e1553ad2ca51d8c1cb066be533db31826e12d173824c1bb0cb1a4f187d20",
                ),
            ),
        ),
    )
}


# File of a mini model → the command of `sagecc pretrain` that makes it.
_TRAINED_HERE = {
    **{f"{model}-mini.safetensors": model for model in ("scenes", "sam", "matcher", "grounding-dino")},
    **{f"grounding-dino-mini/{file}": "grounding-dino" for file in ("vocab.txt", "config.json")},
}


def fetch(
    name: str,
    *,
    folder: Path = FOLDER,
    opener: Callable[[str], AbstractContextManager[IO[bytes]]] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Path:
    """Download a registered checkpoint and its companions, and check their SHA-256.

    Files that exist with the right content are kept.

    Args:
        name: Name in `CHECKPOINTS`.
        folder: Folder to put it into.
        opener: Opens an address for reading; None: `urllib.request.urlopen`.
        advance: Called with the number of bytes of each block that arrives.

    Returns:
        The checkpoint's file.

    Raises:
        CheckpointError: The name is unknown or the content is not the published one.
        ServiceError: The address cannot be reached.
    """
    checkpoint = CHECKPOINTS.get(name)
    if checkpoint is None:
        raise CheckpointError(f"no checkpoint is called {name!r}", fix=f"one of: {', '.join(CHECKPOINTS)}")
    open_address = opener or (lambda address: urllib.request.urlopen(address, timeout=60))
    # Last, so that its companions exist wherever it does.
    for companion in checkpoint.companions:
        _fetch_file(companion, folder / companion.file, open_address, advance)
    return _fetch_file(checkpoint, folder / checkpoint.file, open_address, advance)


def _fetch_file(
    checkpoint: Checkpoint,
    path: Path,
    open_address: Callable[[str], AbstractContextManager[IO[bytes]]],
    advance: Callable[[int], None] | None,
) -> Path:
    if path.is_file() and sha256_file(path).startswith(checkpoint.sha256):
        return path
    with atomic_path(path) as temporary:
        try:
            with open_address(checkpoint.url) as source, temporary.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
                    if advance:
                        advance(len(block))
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(
                f"cannot download {checkpoint.name} ({reason})",
                where=checkpoint.url,
                fix=f"fetch the file on a machine with network and put it at {path}",
            ) from error
        digest = sha256_file(temporary)
        if not digest.startswith(checkpoint.sha256):
            raise CheckpointError(
                f"the download is not the published {checkpoint.name}: SHA-256 {digest[:16]}…, expected "
                f"{checkpoint.sha256}…",
                where=checkpoint.url,
                fix="try again; if it repeats, something between you and the publisher changes files",
            )
    return path


def shipped(path: Path) -> Path:
    """Return where a file or folder of weights is: at `path`, or among the mini models of sagecc's own repository.

    A project folder elsewhere need not hold a copy of the models that ship: what its settings name below
    artifacts/pretrained, and it does not have, is read from the repository that sagecc was installed from. Where it is
    in neither, `path` is returned.
    """
    if path.is_absolute() or not path.is_relative_to(MINI_MODELS) or path.exists():
        return path
    stored = _REPOSITORY / path
    return stored if stored.exists() else path


def weights_sha256(path: Path, *, whose: str, setting: str) -> str:
    """Return the SHA-256 of a file of weights.

    Args:
        path: The file.
        whose: The model, as a message names it.
        setting: The setting that takes its path.

    Raises:
        CheckpointError: It does not exist; the message says how to get it.
    """
    path = shipped(path)
    if not path.is_file():
        fix = missing_advice(path) or f"correct {setting}, or put the file there"
        raise CheckpointError(f"the weights of {whose} are not there", where=path, fix=fix)
    return sha256_file(path)


TEXT_ENCODER_FILES: Final = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files, beside the weights, from which transformers builds a text encoder and its tokenizer."""


def text_encoder_sha256(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the configuration and of every tokenizer file in a text encoder's folder, by file name."""
    folder = shipped(folder)
    return {name: sha256_file(folder / name) for name in TEXT_ENCODER_FILES if (folder / name).is_file()}


def missing_advice(path: Path) -> str | None:
    """Return how to get the missing file `path`; None if it exists, or is neither published nor a mini model's."""
    if shipped(path).is_file():
        return None
    # Names as vocab.txt say nothing without their folder.
    names = (path.name, f"{path.parent.name}/{path.name}")
    for name in names:
        if name in _TRAINED_HERE:
            return (
                "they ship with sagecc's repository: install it from a clone (`make setup`), or run in one, or give it "
                f"by --project; or train them with `sagecc pretrain {_TRAINED_HERE[name]}`"
            )
    for checkpoint in CHECKPOINTS.values():
        if any(file.file in names for file in (checkpoint, *checkpoint.companions)):
            return (
                f"run `sagecc checkpoints fetch {checkpoint.name}` "
                f"({checkpoint.size} from {checkpoint.url}; {checkpoint.licence})"
            )
    return None
