import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.cli import COMMANDS, main, to_overrides
from runs import failure


def parsed(command: str, *arguments: str) -> dict[str, object]:
    overrides = OverridesParser.create().parse_overrides(to_overrides(COMMANDS[command], arguments))
    return {override.key_or_group: override.value() for override in overrides}


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "a folder/with space",
        "Grüße/日本.png",
        "it's.png",
        "a,b[1].png",
        "100%",
        "back\\",
        "x=1",
    ],
)
def test_plain_arguments_reach_the_configuration_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "x=1":  # an existing file is a file, whatever its name
        Path(name).touch()
    assert parsed("predict", "model.ckpt", name, "b.png", "raw=true") == {
        "checkpoint": "model.ckpt",
        "images": [name, "b.png"],
        "raw": True,
    }


def test_a_pattern_in_a_folder_whose_name_has_a_sign_of_equality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pattern = "lot=7/**/*.png"
    assert parsed("predict", "model.ckpt", pattern)["lot"] == "7/**/*.png"
    (tmp_path / "lot=7" / "deep").mkdir(parents=True)
    (tmp_path / "lot=7" / "deep" / "a.png").touch()
    assert parsed("predict", "model.ckpt", pattern)["images"] == [pattern]


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("data.normal=müller/", "'data.normal=\"müller/\"'"),
        ("data.normal=lot=7/", "'data.normal=\"lot=7/\"'"),
        ("data.normal=part[1]/", "'data.normal=\"part[1]/\"'"),
        ("data.normal=~/x", "'data.normal=\"~/x\"'"),
        ("data.normal=[a, müller,b]", '\'data.normal=["a","müller","b"]\''),
        ("data.normal=it's", "'data.normal=\"it'\"'\"'s\"'"),
    ],
)
def test_values_that_the_grammar_cannot_read(
    override: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, ["fit", "data=folder", override])
    assert said == f"Error: {override} cannot be read: quote the value, {remedy}\n1"
    (given,) = shlex.split(remedy)  # as a shell does
    (value,), wanted = parsed("fit", given).values(), override.partition("=")[2]
    assert value == (["a", "müller", "b"] if wanted.startswith("[") else wanted)


@pytest.mark.parametrize("group", ["data", "backbone", "threshold"])
def test_a_group_that_is_null(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"Error: {group}=null: {group} is chosen by name; `padim fit --help` lists"
    assert expected in failure(capsys, ["fit", f"{group}=null"])


def test_flags_and_options() -> None:
    assert to_overrides(COMMANDS["predict"], ["--raw", "--cfg", "job"]) == [
        "--cfg",
        "job",
        "raw=true",
    ]


def test_superfluous_argument_is_named() -> None:
    with pytest.raises(SystemExit, match="'bottle' is no key=value"):
        to_overrides(COMMANDS["fit"], ["bottle"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_overview_lists_the_commands(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments)
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed and c.purpose in printed for name, c in COMMANDS.items())


def test_unknown_command() -> None:
    with pytest.raises(SystemExit, match="no command 'train'; it has fit, evaluate, predict"):
        main(["train"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_groups_and_keys(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert f"padim {command}" in printed
    assert "trainer: auto, cpu, ddp, ddp_cpu, gpu, slurm" in printed
    assert "== Configuration: override with key=value ==" in printed
