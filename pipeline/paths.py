"""Files and folders that stages read and write; the command line makes them once and passes them to every stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pipeline.errors import SettingsError

CACHES = ("scenes", "masks", "regions", "matches", "semantics", "graph")
"""Names of the caches that `--cache NAME=PATH` may place elsewhere; the graph is a folder, the others are files."""


@dataclass(frozen=True)
class Paths:
    """Files and folders of one project folder.

    Attributes:
        prepared: Folder that `sagecc prepare` writes.
        scenes: Cache that `sagecc scenes` writes.
        masks: Cache that `sagecc masks` writes.
        regions: Cache that `sagecc regions` writes.
        matches: Cache that `sagecc matches` writes.
        semantics: Cache that `sagecc semantics` writes.
        graph: Folder that `sagecc graph` writes.
        models: Folder of the trained models of one name, `seed-<n>` each.
        curves: Folder of their training curves, `seed-<n>` each.
        captions: Folder of the captions that they wrote.
        metrics: JSON file of the scores.
        plots: Folder of tables and plots of the scores.
        experiments: Folder of the experiments, one subfolder each.
        pretrained: Folder of the mini models that ship.
        work: Shards and training states, from which interrupted stages go on; DVC does not know it.
    """

    prepared: Path
    scenes: Path
    masks: Path
    regions: Path
    matches: Path
    semantics: Path
    graph: Path
    models: Path
    curves: Path
    captions: Path
    metrics: Path
    plots: Path
    experiments: Path
    pretrained: Path
    work: Path

    @classmethod
    def under(cls, root: Path = Path(), *, name: str = "baseline") -> Paths:
        """Return the layout that dvc.yaml names, under the project folder `root`.

        Args:
            root: The project folder.
            name: Name of the model, `train.name`.
        """
        artifacts = root / "artifacts"
        caches = {cache: artifacts / "caches" / f"{cache}.h5" for cache in CACHES if cache != "graph"}
        return cls(
            prepared=artifacts / "prepared",
            **caches,
            graph=artifacts / "graph",
            models=artifacts / "models" / name,
            curves=artifacts / "curves" / name,
            captions=artifacts / "captions" / name,
            metrics=artifacts / "metrics.json",
            plots=artifacts / "plots",
            experiments=artifacts / "experiments",
            pretrained=artifacts / "pretrained",
            work=root / ".work",
        )

    @property
    def answers(self) -> Path:
        """Stored answers of language models; deleting them means asking, and paying, again."""
        return self.work / "llm"

    def training(self, key: str) -> Path:
        """Folder of the states and models of the trainings with this content key, `seed-<n>` each."""
        return self.work / "train" / key[:16]

    def with_caches(self, folder: Path | None = None, assignments: Iterable[str] = ()) -> Paths:
        """Place caches elsewhere.

        Args:
            folder: Folder of all caches, under their usual names; None leaves them where they are.
            assignments: NAME=PATH for single caches; these win over `folder`.

        Raises:
            SettingsError: An assignment is not of this form, or names no cache.
        """
        paths: dict[str, Path] = {}
        if folder is not None:
            paths = {name: folder / getattr(self, name).name for name in CACHES}
        for assignment in assignments:
            name, separator, value = assignment.partition("=")
            if not separator or not value or name not in CACHES:
                raise SettingsError(
                    f"cannot read {assignment!r}", where="--cache", fix=f"NAME=PATH, NAME one of {', '.join(CACHES)}"
                )
            paths[name] = Path(value)
        return replace(self, **paths)

    def at(self, **paths: Path) -> Paths:
        """Return a copy with other paths for the attributes that are named.

        Raises:
            TypeError: A name is not one of the attributes.
        """
        unknown = paths.keys() - {field.name for field in fields(self)}
        if unknown:
            raise TypeError(f"no such path: {', '.join(sorted(unknown))}")
        return replace(self, **paths)
