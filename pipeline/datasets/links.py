"""Links in a data set: where they may lead, and words for those that lead nowhere.

A link within the root is the user's own, unless the data set came with it. So by default a link may lead to a place in
the root, or into a store that keeps files under the hash of their content: DVC's cache (`cache.type symlink`), that of
git-annex, or of the Hugging Face hub. Such a store is told by the form of its names, wherever it is; a link of
strangers cannot lead to any other file by it. What a list or a caption file names is checked by
`pipeline.datasets.paths.inner_path`, whatever the setting.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final, Literal

from pipeline.errors import DataError
from pipeline.system_errors import read_error

LinkRule = Literal["inside", "follow"]
"""Whether links stay in the root (and the stores), or may lead anywhere."""

LINKS_MEANING: Final = (
    "inside: a link may lead within the root, or to a file in the cache of DVC, git-annex or the Hugging Face hub; "
    "follow: anywhere, for links of your own to other storage"
)

_STORES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (
        re.compile(r"/[0-9a-f]{2}/[0-9a-f]{30}"),
        "fetch what it leads to with `dvc pull`, then `dvc checkout --relink` makes the links again",
    ),
    (re.compile(r"/annex/objects(/[^/]+){2}/([A-Z0-9_]+-[^/]*--[^/]+)/\2"), "fetch the file with `git annex get`"),
    (re.compile(r"/blobs/[0-9a-f]{40}([0-9a-f]{24})?"), "download the data set again"),
)
"""How the paths of files in a store end, and what brings back a file that is not in it."""


def check_link(path: Path, root: Path, rule: LinkRule, setting: str = "prepare.links") -> None:
    """Raise if the links in the path of a file or folder lead nowhere, or to where they may not.

    Args:
        path: The file or folder; one that does not exist passes, unless it is a link.
        root: The data set's root, which may be a link to anywhere.
        rule: Where links may lead.
        setting: The setting that holds the rule, for the advice.

    Raises:
        DataError: A link leads nowhere, back to itself, or to where it may not.
        UnreadableError: The path cannot be followed.
    """
    if lost := lost_link(path):
        raise lost
    target = os.path.realpath(path)
    if rule == "follow" or _is_within(target, os.path.realpath(root)) or _store_advice(target) is not None:
        return
    raise DataError(
        f"a link leads out of the root, to {target}",
        where=path,
        fix=f"set {setting}: follow if you trust the links in it; or copy the file into the root",
    )


def lost_link(path: Path) -> DataError | None:
    """Return the error of a link that leads nowhere or back to itself; None for everything else.

    Raises:
        UnreadableError: The path cannot be followed.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            fix = "remove the link, or correct where it leads"
            return DataError("a link that leads back to itself", where=path, fix=fix)
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise read_error(error, path) from error
        if not path.is_symlink():
            return None
    else:
        return None
    target = os.path.realpath(path)
    fix = _store_advice(target) or "mount the storage that it leads to, or put the file itself there"
    return DataError(f"a link that leads nowhere: {target} is not there", where=path, fix=fix)


def _is_within(path: str, root: str) -> bool:
    return Path(path).is_relative_to(root)


def _store_advice(target: str) -> str | None:
    """Return how to bring back a file of a store; None if the path is not one of a store's."""
    for pattern, advice in _STORES:
        match = pattern.search(target)
        if match is not None and match.end() == len(target):
            return advice
    return None
