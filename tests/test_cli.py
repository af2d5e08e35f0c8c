from __future__ import annotations

import argparse

import pytest

from prox_monai import __version__, doctor
from prox_monai.cli import COMMANDS, build_parser, main
from prox_monai.commands.command import Command
from prox_monai.doctor import Finding, Level
from prox_monai.plugin_files import plugin_folder


def raising(error: BaseException) -> list[Command]:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    return [Command("break", "raise an error", run)]


def test_nnunet_path_prints_one_folder(capsys):
    assert main(["nnunet-path"]) == 0
    assert capsys.readouterr() == (f"{plugin_folder('nnunet')}\n", "")


@pytest.mark.parametrize(("level", "code"), [(Level.OK, 0), (Level.WARN, 0), (Level.FAIL, 1)])
def test_doctor_fails_if_a_finding_does(level, code, monkeypatch, capsys):
    findings = [Finding("torch", Level.OK, "2.15.0"), Finding("GPU", level, "seen")]
    monkeypatch.setattr(doctor, "examine", lambda environment: findings)
    assert main(["doctor"]) == code
    assert capsys.readouterr().out == f"{doctor.table(findings)}\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("depth 3 is not in the\nsearch space (1, 2)."),
            "depth 3 is not in the search space (1, 2).",
        ),
        (OSError(28, "No space left on device", "a.pth"), "[Errno 28] No space left on device: 'a.pth'"),
        (RuntimeError(), "RuntimeError"),
        (ModuleNotFoundError("No module named 'optuna'"), "No module named 'optuna'"),
    ],
)
def test_errors_are_one_line(error, line, capsys):
    assert main(["break"], raising(error)) == 2
    assert capsys.readouterr() == ("", f"prox-monai: error: {line}\n")


def test_an_interruption_is_no_error(capsys):
    assert main(["break"], raising(KeyboardInterrupt())) == 130
    assert "stopped; the same command goes on from what is done" in capsys.readouterr().err


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="deep"):
        main(["--debug", "break"], raising(ValueError("deep")))


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        main(["break"], raising(ZeroDivisionError()))


def test_groups_of_commands():
    commands = [
        Command(
            name,
            "write",
            lambda arguments: arguments.number,
            lambda parser: parser.add_argument("number", type=int),
        )
        for name in ("export nnunet", "export onnx", "evaluate")
    ]
    assert main(["export", "nnunet", "3"], commands) == 3
    assert main(["export", "onnx", "4"], commands) == 4
    assert main(["evaluate", "5"], commands) == 5


@pytest.mark.parametrize("argv", [[], ["nnunet"], ["doctor", "--fast"]])
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert ": error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fold", "one"], "argument --fold: must be all, or an integer >= 0, got 'one'."),
        (["--fold", "-1"], "argument --fold: must be all, or an integer >= 0, got '-1'."),
        (["--random", "-3"], "argument --random: must be an integer >= 0, got '-3'."),
    ],
)
def test_what_is_no_number_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "model", "--output", "rows.jsonl", *arguments])
    assert said in capsys.readouterr().err


def test_folds():
    parse = build_parser().parse_args
    assert parse(["select", "model", "--subnet", "largest", "--fold", "all"]).fold == "all"
    export = ["export", "nnunet", "model", "--subnet", "largest", "--output", "stock"]
    assert parse(export).fold == [0]
    assert parse([*export, "--fold", "0", "1"]).fold == [0, 1]


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"prox-monai {__version__}\n"


def test_help_lists_every_command_and_examples(capsys):
    text = build_parser().format_help()
    assert all(command.name.split()[0] in text for command in COMMANDS)
    assert "examples:" in text
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([*command.name.split(), "--help"])
        assert command.examples.splitlines()[0] in capsys.readouterr().out
