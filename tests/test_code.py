"""Which modules a module imports, and the digest of their code."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.code import EXEMPT, closure, code_digest, forget, locate, targets
from pipeline.errors import DataError

WORKER = '''"""Squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import json

from pydantic import Field

from toy_squares.helpers import power
from pipeline.progress import say

if TYPE_CHECKING:
    from toy_squares.types import Number


def square(value: Number) -> Number:
    """Return the square of a number."""
    from . import late

    return late.checked(power(value, 2))


limit = Field(3, description="the largest number")
'''
FILES = {
    "__init__.py": '"""Toys."""\n',
    "worker.py": WORKER,
    "helpers.py": "def power(value, exponent):\n    return value**exponent\n",
    "late.py": "from .sub.deep import checked\n",
    "sub/__init__.py": "LOADED = True\n",
    "sub/deep.py": "from ..helpers import power\n\n\ndef checked(value):\n    return value < power(9, 9) and value\n",
    "types.py": "Number = int\n",
    "other.py": "x = 1\n",
    "registry.py": 'TOYS = {"square": "toy_squares.worker:square", "json": "nothing.there:dumps", "text": "a: b"}\n',
}

Edit = Callable[[str, str, str], None]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        path = tmp_path / "toy_squares" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path / "toy_squares"
    forget()
    for name in [name for name in sys.modules if name.startswith("toy_squares")]:
        del sys.modules[name]


@pytest.fixture
def edit(toy: Path) -> Edit:
    def replace(file: str, old: str, new: str) -> None:
        text = (toy / file).read_text()
        assert old in text
        (toy / file).write_text(text.replace(old, new))
        forget()

    return replace


def digest() -> str:
    return code_digest("toy_squares.worker")


def test_imports_count_wherever_they_stand_but_for_type_checkers(toy: Path) -> None:
    names = ("helpers", "late", "sub", "sub.deep", "worker")
    assert closure("toy_squares.worker") == tuple(f"toy_squares.{name}" for name in names)


def test_objects_that_are_named_by_strings_count(edit: Edit) -> None:
    before = digest()
    edit("late.py", "from", 'model = "toy_squares.other:x"\nfrom')
    assert "toy_squares.other" in closure("toy_squares.worker")
    named = digest()
    edit("other.py", "1", "2")
    assert len({before, named, digest()}) == 3


def test_modules_of_the_project_that_a_toy_imports_count(edit: Edit) -> None:
    edit("helpers.py", "def power", "import pipeline.files\n\n\ndef power")
    assert closure("toy_squares.worker")[:1] == ("pipeline.files",)


def test_an_exempt_module_takes_what_only_it_imports_along() -> None:
    assert closure("pipeline.checkpoints") == ()
    assert "pipeline.files" in closure("stages.scenes")
    assert not EXEMPT & set(closure("stages.train"))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("worker.py", '"""Squares."""', '"""Squares\n\nof numbers.\n"""'),
        ("worker.py", '    """Return the square of a number."""\n', ""),
        ("worker.py", "    return late", "    # A large one is none.\n    return late"),
        ("worker.py", "late.checked(power(value, 2))", "late.checked(\n        power(\n value, 2)\n    )"),
        ("worker.py", "the largest number", "what numbers must not exceed"),
        ("helpers.py", "value**exponent", "(value ** exponent)"),
        ("other.py", "1", "2"),
        ("types.py", "int", "float"),
        ("__init__.py", "Toys", "Squares"),
    ],
)
def test_edits_that_change_nothing(edit: Edit, file: str, old: str, new: str) -> None:
    before = digest()
    edit(file, old, new)
    assert digest() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("worker.py", "power(value, 2)", "power(value, 3)"),
        ("worker.py", "Field(3,", "Field(4,"),
        ("helpers.py", "**exponent", "**-exponent"),
        ("sub/deep.py", "<", "<="),
        ("sub/__init__.py", "True", "False"),
        ("__init__.py", '"""Toys."""', '"""Toys."""\nimport math'),
    ],
)
def test_edits_of_code(edit: Edit, file: str, old: str, new: str) -> None:
    before = digest()
    edit(file, old, new)
    assert digest() != before


def test_a_description_counts_where_the_field_is_not_pydantics(edit: Edit) -> None:
    edit("worker.py", "from pydantic", "from pipeline.cache.schema")
    before = digest()
    edit("worker.py", "the largest number", "the smallest number")
    assert digest() != before


def test_a_registry_counts_by_what_is_chosen_from_it(edit: Edit) -> None:
    assert targets("toy_squares.registry") == ("toy_squares.worker",)
    edit("other.py", "x = 1", "from toy_squares.registry import TOYS")
    assert closure("toy_squares.other") == ("toy_squares.other",)
    alone, chosen = code_digest("toy_squares.other"), code_digest("toy_squares.other", "toy_squares.worker:square")
    edit("registry.py", '"text"', '"another"')
    assert (code_digest("toy_squares.other"), code_digest("toy_squares.other", "toy_squares.worker:square")) == (
        alone,
        chosen,
    )
    assert alone != chosen
    edit("helpers.py", "**exponent", "**-exponent")
    assert code_digest("toy_squares.other") == alone
    assert code_digest("toy_squares.other", "toy_squares.worker:square") != chosen


def test_the_digest_takes_no_notice_of_order_and_repetition(toy: Path) -> None:
    names = ("toy_squares.worker", "toy_squares.other")
    assert code_digest(*names) == code_digest(*reversed(names), "toy_squares.helpers")


def test_every_exempt_module_exists() -> None:
    assert [name for name in sorted(EXEMPT) if locate(name) is None] == []


def test_a_module_that_does_not_exist_is_named() -> None:
    for name in ("pipeline.nothing", "no_such_package.worker"):
        with pytest.raises(DataError, match=f"the source of the module {name} cannot be read"):
            closure(name)


def test_source_in_a_zip_archive_is_refused(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("packed_toy/__init__.py", "")
        archive.writestr("packed_toy/worker.py", "x = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "packed.zip")
    forget()
    with pytest.raises(DataError, match=r"packed_toy.worker cannot be read") as caught:
        code_digest("packed_toy.worker")
    assert caught.value.fix is not None and "zip" in caught.value.fix
