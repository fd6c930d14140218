"""Digest of the code that computes a result, for the keys under which finished results are found again.

The modules of the project that a module imports are read from the source, without running it (`closure`); the digest is
taken of their syntax trees (`code_digest`), so that comments, docstrings and formatting do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pipeline.errors import DataError

ROOT: Final = Path(__file__).resolve().parents[1]
"""The folder that holds the packages `pipeline`, `stages` and `cli`."""
PACKAGES: Final = ("pipeline", "stages", "cli")

EXEMPT: Final = frozenset(
    [
        # Say something to people.
        "pipeline.errors",
        "pipeline.system_errors",
        "pipeline.progress",
        "pipeline.doctor",
        "pipeline.cache.inspect",
        # Where results lie and how they are computed side by side; a result is the same in any place, on any engine.
        "pipeline.paths",
        "pipeline.targets",
        "pipeline.execution.settings",
        # When freed memory goes back to the operating system.
        "pipeline.malloc",
        # How long threads wait before they sleep.
        "pipeline.openmp",
        # Values of settings; every key holds those that a result depends on.
        "pipeline.config",
        "pipeline.path_settings",
        "stages.settings",
        # Addresses and licences of published weights; every key holds the SHA-256 of the weights that were read.
        "pipeline.checkpoints",
        # This digest, and the lists of what it is taken of.
        "pipeline.code",
        "stages.code",
        # Names of modules, as in every module called `registry`; the one that is chosen is a root of its own.
        "pipeline.registry",
        "pipeline.datasets.adapters",
    ]
)
"""Modules that cannot change a result. Neither they nor what only they import counts."""

_TARGET: Final = re.compile(r"[a-z_]\w*(\.\w+)+:\w+")
"""How registries and settings name an object of a module that is imported later."""


@dataclass(frozen=True)
class _Source:
    """What is read of one module.

    Attributes:
        digest: SHA-256 of its syntax tree.
        imports: Names that it may import, of which those that are modules count.
        named: Names of modules in strings of the form "module:attribute".
        empty: Whether it holds nothing but a docstring and imports from `__future__`.
    """

    digest: str
    imports: tuple[str, ...]
    named: tuple[str, ...]
    empty: bool


def is_exempt(module: str) -> bool:
    """Whether a module is one of `EXEMPT` or a registry, which only names modules."""
    return module in EXEMPT or module.rpartition(".")[2] == "registry"


def closure(module: str) -> tuple[str, ...]:
    """Return the modules of the project that `module` imports, directly or not, and itself, in alphabetical order.

    Imports anywhere in a file count, except those for type checkers only, and so do strings of the form
    "module:attribute". Exempt modules (`is_exempt`) are left out, with what only they import, and so are `__init__`
    files that hold nothing but a docstring.

    Args:
        module: Dotted name. Its own top-level package counts as the project's.

    Raises:
        DataError: There is no such module, or its source cannot be read.
    """
    return _closure(module)


@cache
def _closure(module: str) -> tuple[str, ...]:
    packages = {*PACKAGES, module.partition(".")[0]}
    _read(module)
    modules, pending = set(), [module]
    while pending:
        name = pending.pop()
        if name in modules or is_exempt(name) or name.partition(".")[0] not in packages or locate(name) is None:
            continue
        modules.add(name)
        pending += [*_read(name).imports, *_read(name).named]
    return tuple(sorted(name for name in modules if not _read(name).empty))


def code_digest(*modules: str) -> str:
    """Return the SHA-256 of the code of `modules` and of everything in the project that they import, 64 digits.

    Comments, docstrings, formatting and the descriptions of settings do not change it; anything else does.

    Args:
        modules: Dotted names, or names of objects in modules as registries give them ("module:attribute").

    Raises:
        DataError: There is no such module, or the source of a module cannot be read.
    """
    names = sorted({name for module in modules for name in closure(module.partition(":")[0])})
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name} {_read(name).digest}\n".encode())
    return digest.hexdigest()


def forget() -> None:
    """Read every source anew from now on; for tests that edit them."""
    for function in (_closure, locate, _read):
        function.cache_clear()


def targets(registry: str) -> tuple[str, ...]:
    """Return the modules of the "module:attribute" strings in the source of the module `registry`."""
    return tuple(name for name in _read(registry).named if locate(name) is not None)


@cache
def locate(module: str) -> Path | None:
    """Return the source file of a module; None where there is none."""
    top, *rest = module.split(".")
    folder = ROOT
    if top not in PACKAGES:
        spec = importlib.util.find_spec(top)
        if spec is None:
            return None
        if not spec.submodule_search_locations:
            return Path(spec.origin) if spec.origin and not rest else None
        folder = Path(next(iter(spec.submodule_search_locations))).parent
    path = folder.joinpath(top, *rest)
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _parse(module: str) -> ast.Module:
    path = locate(module)
    if path is None or not path.is_file():
        raise DataError(
            f"the source of the module {module} cannot be read, so nobody can tell which results it belongs to",
            where=path or ROOT,
            fix="install the project as files, with their source (not from a zip archive)",
        )
    return ast.parse(path.read_bytes(), str(path))


@cache
def _read(module: str) -> _Source:
    tree = _parse(module)
    path = locate(module)
    package = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    empty = all(
        _is_docstring(statement) or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")
        for statement in tree.body
    )
    digest = hashlib.sha256(_canonical(tree, _pydantic_fields(tree)).encode()).hexdigest()
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    named = (text.partition(":")[0] for text in texts if _TARGET.fullmatch(text))
    return _Source(digest, tuple(sorted(set(_imports(tree, package)))), tuple(sorted(set(named))), empty)


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the names that a syntax tree imports: "a", "a.b" and "a.b.c" for `from a.b import c`."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        names = [f"{base}.{alias.name}" for alias in node.names]
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    for child in children:
        yield from _imports(child, package)


def _canonical(value: Any, fields: frozenset[str]) -> str:
    """Write a syntax tree in a form that does not depend on places, docstrings and the version of Python.

    `ast.dump` writes empty lists in some versions of Python and leaves them out in others.

    Args:
        value: A node, a list of nodes, or a constant.
        fields: Names by which the module calls pydantic's `Field`, whose descriptions are left out.
    """
    if isinstance(value, list):
        return f"[{','.join(_canonical(item, fields) for item in value if not _is_docstring(item))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in fields:
        keywords = [keyword for keyword in value.keywords if keyword.arg != "description"]
        value = ast.Call(value.func, value.args, keywords)
    pairs = ((name, item) for name, item in ast.iter_fields(value) if item is not None and item != [])
    return f"{type(value).__name__}({','.join(f'{name}={_canonical(item, fields)}' for name, item in pairs)})"


def _is_docstring(node: object) -> bool:
    """Whether a statement is a string alone: a docstring, or one below an assignment."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _pydantic_fields(tree: ast.Module) -> frozenset[str]:
    return frozenset(
        alias.asname or alias.name
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module == "pydantic"
        for alias in statement.names
        if alias.name == "Field"
    )
