"""The house: imports go one way, stages import at the top, and names say what a thing is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    "pipeline.errors",
    "pipeline.system_errors",
    "pipeline.targets",
    "pipeline.malloc",
    "pipeline.openmp",
    "pipeline.registry",
    "pipeline.files",
    "pipeline.contents",
    "pipeline.config",
    "pipeline.path_settings",
    "pipeline.paths",
    "pipeline.code",
    "pipeline.progress",
    "pipeline.runtime",
    "pipeline.checkpoints",
    "pipeline.weights",
    "pipeline.cache",
    "pipeline.execution",
    "pipeline.datasets",
    "pipeline.caption_graph",
    "pipeline.graph_encoders",
    "pipeline.vision",
    "pipeline.captioners",
    "pipeline.evaluation",
    "pipeline.training",
    "pipeline.experiments",
    "pipeline.doctor",
    "stages",
    "cli",
)
"""Packages and modules from bottom to top: each may import those above it in this list, never those below."""
VAGUE = frozenset({"found", "mine", "there", "some", "known", "taken"})
"""Names that say that a thing was obtained and not what it is."""
DEFERRED = {
    ("pipeline/captioners/fusion.py", "pipeline.graph_encoders.encoders"),  # PyTorch Geometric takes seconds
}
"""Imports of the project's own modules within functions, below cli: those that have a reason."""


def _sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the project's modules that are imported anywhere in a file, with their lines."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in ("pipeline", "stages", "cli")
        ):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if _is_module(full) else node.module), node.lineno


def _layer(module: str) -> int:
    for index, layer in enumerate(LAYERS):
        if module == layer or module.startswith(f"{layer}."):
            return index
    raise AssertionError(f"{module} has no place in LAYERS: add it where it belongs")


def test_imports_go_one_way() -> None:
    wrong = []
    for path in _sources("pipeline", "stages", "cli"):
        module = _module(path)
        if module in ("pipeline", "stages", "cli"):
            continue
        for imported, line in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if _layer(imported) > _layer(module):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        _module(path): {name for name, _ in _imports(ast.parse(path.read_text(encoding="utf-8")))}
        for path in _sources("pipeline", "stages", "cli")
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module not in finished:
            for imported in sorted(graph.get(module, ()) - {module}):
                visit(imported, (*trail, module))
            finished.add(module)

    for module in graph:
        visit(module, ())


def test_stages_and_pipeline_import_the_project_at_the_top() -> None:
    deferred = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in _sources("pipeline", "stages")
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for name, _ in _imports(function)
    }
    assert deferred == DEFERRED


def test_the_command_line_loads_no_stage_before_a_command_runs() -> None:
    light = {"stages.settings", "stages.renamed"}
    eager = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _sources("cli")
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom)
        for name, _ in _imports(statement)
        if name.split(".")[0] == "stages" and name not in light
    ]
    assert not eager


@pytest.mark.parametrize("folder", ["pipeline", "stages", "cli", "benchmarks"])
def test_names_say_what_a_thing_is(folder: str) -> None:
    vague = []
    for path in _sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = None
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            if name in VAGUE:
                vague.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {name}")
    assert not vague, "\n".join(vague)


def test_tests_import_nothing_from_other_test_modules() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _sources("tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests")
        if any(name.startswith("test_") for name in [*node.module.split("."), *(alias.name for alias in node.names)])
    ]
    assert not wrong
