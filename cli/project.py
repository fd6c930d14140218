"""The project folder: how a command finds it, and how it runs there.

As with git, a command works in any folder below the project's. It runs in the project folder, to which the paths in the
settings are relative; paths on the command line are relative to the folder in which the user typed them.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

from pipeline.errors import SettingsError

Command = TypeVar("Command", bound=Callable[..., Any])

Project = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="DIR",
        help="The project folder [default: this folder or the nearest above it with a params.yaml of sagecc].",
    ),
]
_SETTINGS = "params.yaml"
_OWN_SECTION = re.compile(rb"^(scenes|masks|regions|matches|semantics)\s*:", re.MULTILINE)
"""A section that params.yaml of sagecc has, and that of another program's DVC pipeline has not."""
_KEY = "sagecc.project"
_SHOWN = "sagecc.project.shown"


class ProjectTyper(typer.Typer):
    """A group of commands that run in the project folder and have the option `--project`."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Command], Command]:
        """Register a command; the option `searched=False` keeps it from looking for a project above the folder."""
        searched = options.pop("searched", True)
        return self._registered(super().command(*arguments, **options), searched)

    def callback(self, *arguments: Any, **options: Any) -> Callable[[Command], Command]:
        """Register what runs before the group's commands, or in their place."""
        return self._registered(super().callback(*arguments, **options), True)

    def _registered(self, register: Callable[[Any], Any], searched: bool) -> Callable[[Command], Command]:
        def decorate(function: Command) -> Command:
            register(in_project(function, searched=searched))
            return function

        return decorate


def in_project(function: Callable[..., Any], *, searched: bool = True) -> Callable[..., Any]:
    """Return a command that runs `function` in the project folder, with the further option `--project`.

    Args:
        function: The command. Of its arguments the paths that were given on the command line become absolute where
            the project folder is another than the working directory.
        searched: Whether a project is searched above the working directory.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name]) for name, parameter in inspect.signature(function).parameters.items()
    ]
    context_name = next((p.name for p in parameters if p.annotation is typer.Context), None)
    added = [inspect.Parameter("project", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Project)]
    if context_name is None:
        added.append(inspect.Parameter("_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(function)
    def run(**values: Any) -> Any:
        project: Path | None = values.pop("project")
        context: typer.Context = values.pop("_context") if context_name is None else values[context_name]
        here = working_directory()
        if project is not None:
            context.meta[_KEY] = _absolute(project, here)
        if context.invoked_subcommand is not None:
            return function(**values)
        given = {name for name in values if _is_given(context, name)}
        folder = find_project(
            context.meta.get(_KEY),
            here,
            values["params"] if "params" in given else None,
            searched=searched,
        )
        stays = folder is None or folder == here
        placed = {
            name: _placed(value, hints.get(name), None if stays else here) if name in given else value
            for name, value in values.items()
        }
        if folder is None or stays:
            return function(**placed)
        if not context.meta.get(_SHOWN):
            context.meta[_SHOWN] = True
            typer.echo(f"project: {folder}", err=True)
        with _entered(folder):
            return function(**placed)

    run.__dict__.pop("__wrapped__", None)
    signed: Any = run
    signed.__signature__ = inspect.Signature([*parameters, *added])
    signed.__annotations__ = {p.name: p.annotation for p in (*parameters, *added)}
    return run


def working_directory() -> Path | None:
    """Return the working directory; None where it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def find_project(
    given: Path | None, here: Path | None, params: Path | None = None, *, searched: bool = True
) -> Path | None:
    """Return the project folder; None where the working directory is the only one there is, or was deleted.

    The first of: the folder that was given; the working directory, if it has a params.yaml; the nearest folder above it
    whose params.yaml has a section of sagecc; the same above the settings file that was given.

    Args:
        given: Of `--project`, absolute.
        here: The working directory.
        params: Of `--params`.
        searched: False: only `given` counts.

    Raises:
        SettingsError: `given` is no folder, or there is neither a project nor a working directory.
    """
    if given is not None:
        if not given.is_dir():
            raise SettingsError("there is no such folder", where=f"--project {given}", fix="correct the path")
        return given
    if here is None:
        raise SettingsError(
            "the working directory no longer exists", fix="change to a folder that exists, or give --project DIR"
        )
    if not searched or (here / _SETTINGS).exists():
        return None
    starts = [here] if params is None else [here, _absolute(params, here).parent]
    return next((folder for start in starts for folder in (start, *start.parents) if _is_project(folder)), None)


def _is_project(folder: Path) -> bool:
    try:
        return _OWN_SECTION.search((folder / _SETTINGS).read_bytes()) is not None
    except OSError:
        return False


@contextmanager
def _entered(folder: Path) -> Iterator[None]:
    """Run the block in `folder`."""
    before = working_directory()
    try:
        os.chdir(folder)
    except OSError as error:
        raise SettingsError(f"cannot enter the project folder: {error.strerror}", where=folder) from error
    try:
        yield
    finally:
        if before is not None:
            os.chdir(before)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _absolute(path: Path, here: Path | None) -> Path:
    # Of `--out=~/x` no shell expands the tilde; Path.expanduser would raise for users that there are not.
    path = Path(os.path.expanduser(path))  # noqa: PTH111
    return path if here is None else here / path


def _placed(value: Any, hint: Any, here: Path | None) -> Any:
    """Return an argument with the paths in it made absolute, as its type or its metavar in the help says."""
    metavar = next((getattr(part, "metavar", None) for part in get_args(hint)[1:]), None)
    if metavar in _PATHS_WITHIN:
        place = _PATHS_WITHIN[metavar]
        return [place(item, here) for item in value] if isinstance(value, list) else place(value, here)
    if Path not in _types(hint):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_placed_path(item, here) for item in value)
    return _placed_path(value, here)


def _placed_path(path: Path, here: Path | None) -> Path:
    # A single dash is standard output.
    return path if str(path) == "-" else _absolute(Path(path), here)


def _named_path(text: str, here: Path | None) -> str:
    name, equals, path = text.partition("=")
    return f"{name}={_absolute(Path(path), here)}" if equals and path else text


def _experiment_file(text: str, here: Path | None) -> str:
    return str(_absolute(Path(text), here)) if text.endswith((".yaml", ".yml")) else text


_PATHS_WITHIN: Mapping[str | None, Callable[[str, Path | None], str]] = {
    "NAME=PATH": _named_path,
    "NAME|FILE.yaml": _experiment_file,
}
"""How the path within an argument that is no path is made absolute, by the argument's metavar."""


def _types(hint: Any) -> set[Any]:
    """Return the types that a hint is composed of."""
    if get_origin(hint) is Annotated:
        return _types(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType, list, tuple):
        return set().union(*(_types(part) for part in get_args(hint)))
    return {hint}
