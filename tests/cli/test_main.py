from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

COMMANDS = [
    ["init"],
    ["prepare"],
    ["scenes"],
    ["masks"],
    ["regions"],
    ["matches"],
    ["semantics"],
    ["train"],
    ["caption"],
    ["evaluate"],
    ["experiment"],
    ["describe"],
    ["inspect"],
    ["draw"],
    ["settings"],
    ["doctor"],
    ["clean"],
    ["graph"],
    ["graph", "show"],
    ["graph", "neighbours"],
    ["graph", "export"],
    ["graph", "extract"],
    ["graph", "coverage"],
    ["data", "generate"],
    ["data", "export"],
    ["data", "sheet"],
    ["pretrain", "scenes"],
    ["pretrain", "sam"],
    ["pretrain", "matcher"],
    ["pretrain", "grounding-dino"],
    ["checkpoints", "list"],
    ["checkpoints", "fetch"],
]


def sagecc(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: sagecc " + " ".join(command) in " ".join(result.output.split())
    assert "--project DIR" in result.output


def test_no_command_is_missing_from_the_list_above() -> None:
    named = {command[0] for command in COMMANDS}
    groups = {group.name for group in app.registered_groups}
    functions = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named == groups | functions


def test_help_loads_no_heavy_library() -> None:
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'dask', 'distributed', 'h5py', 'matplotlib', 'PIL', 'lightning'}\n"
        "heavy |= {'pycocoevalcap', 'yaml', 'stages.settings'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_mistake_exits_with_2_and_no_traceback(tmp_path: Path) -> None:
    result = sagecc("scenes", cwd=tmp_path)
    assert result.returncode == 2
    assert "cannot read the settings" in result.stderr
    assert "sagecc init" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scenes: {batchsize: 3}", "did you mean `batch_size`"),
        ("scenes: {batch_size: 0}", "scenes.batch_size"),
        ("scens: {}", "unknown section `scens`"),
        ("scenes: {weights: x}", "`scenes.weights` → `models.backbone.weights`"),
        ("models: {sam: {varient: mini}}", "did you mean `variant`"),
        ("engine: {engine: cluster}", "engine.engine"),
    ],
)
def test_slips_in_the_settings_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    result = sagecc("scenes", cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_init_writes_a_profile_and_keeps_the_old_one(tmp_path: Path) -> None:
    first = sagecc("init", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = sagecc("init", "levir-cc", "--root", "data", "--allow-missing-images", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "sagecc checkpoints fetch resnet101" in second.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "params.yaml.bak"}
    text = (tmp_path / "params.yaml").read_text()
    assert "dataset: levir-cc" in text
    assert "allow_missing_images: true" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["levir"], "no profile is called"),
        (["levir-cc"], "--root"),
        (["synthetic", "--root", "x"], "generated"),
        (["synthetic", "--set", "trian.epochs=3"], "unknown section `trian`"),
        (["synthetic", "--set", "masks.sam.variant=vit_b"], "`masks.sam` → `models.sam`"),
        (["synthetic", "--set", "train.epoch=3"], "did you mean `epochs`"),
    ],
)
def test_init_refuses(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = sagecc("init", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_clean_lists_and_removes(tmp_path: Path) -> None:
    (tmp_path / ".work" / "scenes" / "x").mkdir(parents=True)
    (tmp_path / ".work" / "scenes" / "x" / "shard").write_bytes(bytes(2**20))
    assert "scenes" in sagecc("clean", cwd=tmp_path).stdout
    wrong = sagecc("clean", "masks", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "one of: all, scenes" in wrong.stderr
    assert "freed 1.0 MiB" in sagecc("clean", "scenes", cwd=tmp_path).stdout
    assert not (tmp_path / ".work" / "scenes").exists()
