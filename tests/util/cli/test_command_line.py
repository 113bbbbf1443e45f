"""Exit statuses, argument files and help."""

import argparse
import errno
import io
import os
import sys

import pytest
import torch

from util.cli.command_line import ArgumentParser, FlagGroup, fraction, run_command
from util.cli.signals import StopRequested
from util.cli.suggestions import CONFIGS
from util.errors import DivergenceError, UserError


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (None, 0, ""),
        (DivergenceError("loss"), 1, "training stopped: loss"),
        (UserError("flag\nx"), 2, "error: flag x"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_statuses(capsys, error, status, words):
    def command():
        if error is not None:
            raise error

    assert run_command("tool", command) == status
    message = capsys.readouterr().err
    assert message.count("\n") == (error is not None)
    assert words in message


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_characters_that_the_terminal_lacks_are_escaped(monkeypatch, errors):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", errors))
    assert run_command("tool", lambda: print("Käfer")) == 0
    assert sys.stdout.buffer.getvalue() == b"K\\xe4fer\n"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii", errors))
    ArgumentParser("tool", description="Käfer").print_help()
    sys.stdout.flush()
    assert b"K\\xe4fer\n" in sys.stdout.buffer.getvalue()


def test_utf8_output_keeps_the_bytes_of_file_names(monkeypatch):
    """As in a container without a locale."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape"))
    assert run_command("tool", lambda: print("caf\udce9 é")) == 0
    assert sys.stdout.buffer.getvalue() == b"caf\xe9 " + "é\n".encode()


def test_a_fault_of_the_program_is_not_hidden():
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("tool", command)


def test_argument_files_are_read_like_a_shell_does(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("# a comment\n--name 'two words'   # why\n\n--size 3\n")
    parser = ArgumentParser("tool", fromfile_prefix_chars="@")
    parser.add_argument("--name")
    parser.add_argument("--size", type=int)
    args = parser.parse_args([f"@{file}", "--size", "4"])
    assert (args.name, args.size) == ("two words", 4)


def test_help_shows_defaults_where_there_are_any():
    parser = ArgumentParser("tool")
    group = FlagGroup(parser, "title")
    group.add("--max_size", "largest side", type=int)  # its default is in the table of new flags
    group.add("--path", "where it is", default="")
    group.add_switch("--fast", "be quick")
    text = parser.format_help()
    assert "largest side (default: 1333)" in text and "where it is\n" in text
    assert parser.parse_args([]).fast is False


def test_switches_with_a_flag_that_undoes_them():
    parser = ArgumentParser("tool")
    group = FlagGroup(parser, "title")
    group.add_switch("--fast", "be quick", off="--no_fast")
    gray = {"action": "store_false", "dest": "color", "default": True}
    group.add_switch("--no_color", "be gray", off="--color", **gray)
    assert vars(parser.parse_args([])) == {"fast": False, "color": True}
    assert vars(parser.parse_args(["--fast", "--no_color"])) == {"fast": True, "color": False}
    undone = ["--fast", "--no_color", "--no_fast", "--color"]
    assert vars(parser.parse_args(undone)) == {"fast": False, "color": True}
    assert parser.given_flags(["--no_fast"]) == {"fast"}
    assert "be quick (opposite: --no_fast)" in parser.format_help()
    by_name = {action.dest: action.option_strings for action in parser._actions}
    assert by_name["fast"] == ["--fast"] and by_name["color"] == ["--no_color"]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_disk_errors_end_in_one_line(capsys, fault):
    def command():
        raise OSError(fault, os.strerror(fault), "log.txt")

    assert run_command("tool", command) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("tool: error: log.txt cannot be written (") and "\n" not in error


def test_other_system_errors_are_faults_of_the_program():
    def command():
        raise OSError(errno.EINVAL, "invalid")

    with pytest.raises(OSError, match="invalid"):
        run_command("tool", command)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 5 bytes"),
        MemoryError(),
    ],
)
def test_running_out_of_memory_ends_in_one_line(capsys, error):
    def command():
        raise error

    assert run_command("tool", command, "lower --batch_size") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tool: error: out of memory (") and "lower --batch_size" in line
    with pytest.raises(type(error)):  # a command without advice
        run_command("tool", command)


def test_a_signal_has_a_status_of_its_own(capsys):
    def command():
        raise StopRequested(15, "stopped; saved")

    assert run_command("tool", command) == 143
    assert capsys.readouterr().err == "tool: stopped; saved\n"


def parser_of(*flags):
    parser = ArgumentParser("tool", fromfile_prefix_chars="@")
    for flag in flags:
        parser.add_argument(flag)
    return parser


def refusal(capsys, parser, *argv):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(list(argv))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--train_imags", "a/"], "unknown flag --train_imags, did you mean --train_images?"),
        (["--train-images=a/"], "unknown flag --train-images=a/, did you mean --train_images?"),
        (["\N{EN DASH}epochs", "3"], "did you mean --epochs?"),
        (["-epochs", "3"], "did you mean --epochs?"),
        (["\N{EN DASH}lr", "3"], "did you mean --lr?"),
        (["--qqq"], "unknown flag --qqq (see --help)"),
        (
            ["--epohcs", "1", "--train_imgs", "a"],
            "did you mean --epochs?; unknown flag --train_imgs,",
        ),
        (["one", "two"], "unexpected argument one; "),
    ],
)
def test_a_misspelt_flag_is_reported_with_the_nearest(capsys, given, message):
    assert message in refusal(capsys, parser_of("--train_images", "--epochs", "--lr"), *given)


def test_flags_may_still_be_shortened(capsys):
    parser = parser_of("--train_images", "--train_ann", "--epochs")
    assert parser.parse_args(["--ep", "3"]).epochs == "3"
    assert parser.given_flags(["--ep", "3"]) == {"epochs"}
    assert "ambiguous option: --train" in refusal(capsys, parser, "--train", "a")


def test_a_missing_file_of_flags_is_reported_with_the_files_there(capsys, tmp_path):
    for name in ("shapes.txt", "coco.txt", "notes.md"):
        (tmp_path / name).write_text("--epochs 1")
    parser = parser_of("--epochs")
    near = refusal(capsys, parser, f"@{tmp_path}/shape.txt")
    assert f"did you mean @{tmp_path}/shapes.txt? {tmp_path} contains coco.txt, shapes.txt" in near
    assert f"{tmp_path} is a folder; {tmp_path} contains coco.txt" in refusal(
        capsys, parser, f"@{tmp_path}"
    )
    elsewhere = refusal(capsys, parser, f"@{tmp_path}/gone/shapes")
    assert "did you mean @" in elsewhere and "configs/shapes.txt?" in elsewhere
    assert f"read flags from this file, write @{tmp_path}/coco.txt" in refusal(
        capsys, parser, f"{tmp_path}/coco.txt"
    )
    (tmp_path / "binary.txt").write_bytes(b"\x80\xff")
    assert "is not a text file" in refusal(capsys, parser, f"@{tmp_path}/binary.txt")


@pytest.mark.parametrize("text", ["0", "1", "0.3", "1e-3"])
def test_fractions(text):
    assert fraction(text) == float(text)


@pytest.mark.parametrize("text", ["30", "-0.1", "1.01", "nan", "inf", "x"])
def test_what_is_no_fraction(text):
    with pytest.raises(argparse.ArgumentTypeError):
        fraction(text)


def test_given_flags_are_distinguished_from_defaults():
    parser = ArgumentParser("tool")
    parser.add_argument("--size", type=int, default=3)
    parser.add_argument("--name", default="a")
    parser.add_argument("--fast", action="store_true")
    assert parser.given_flags(["--size", "3", "--fast"]) == {"size", "fast"}
    assert parser.given_flags([]) == set()


def test_a_file_must_not_override_flags_before_it(tmp_path, capsys):
    parser = ArgumentParser("tool", fromfile_prefix_chars="@")
    for name in ("--lr", "--epochs"):
        parser.add_argument(name, default=1, type=int)
    for name, flags in (("a", "--lr 2 --epochs 2"), ("b", "--epochs 3")):
        (tmp_path / name).write_text(flags)
    first, second = f"@{tmp_path / 'a'}", f"@{tmp_path / 'b'}"
    for argv in (
        [first, second, "--lr", "5"],
        ["--lr", "2", first],  # the same value
        ["--lr", "5", second],  # not in the file
        [first, "--lr", "5", second],
        ["--lr", "5", first, "--lr", "6"],
    ):
        parser.refuse_overridden(argv)
    with pytest.raises(SystemExit):
        parser.refuse_overridden([first, "--lr", "5", "--epochs", "9", second])
    error = capsys.readouterr().err
    assert error.startswith(f"tool: error: --epochs: overridden by {second}, which comes later")
    for argv, file in (
        (["--lr", "5", first, second], first),  # the second file has no --lr
        (["--epochs", "9", first, second], second),
        (["--lr", "5", first, second, "--epochs", "9"], first),
    ):
        with pytest.raises(SystemExit):
            parser.refuse_overridden(argv)
        message = f"tool: error: {argv[0]}: overridden by {file}, which comes later; give flags"
        assert capsys.readouterr().err.startswith(message)
    with pytest.raises(SystemExit):
        parser.refuse_overridden(["--epochs", "9", "--lr", "5", first, second])
    both = f"--epochs: overridden by {second}, which comes later; --lr: overridden by {first}"
    assert both in capsys.readouterr().err


def test_next_to_main_the_recipes_are_listed_and_not_the_requirements(capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    message = refusal(capsys, parser_of("--epochs"), "@shapes.txt")
    assert "did you mean @configs/shapes.txt? configs contains" in message
    assert "requirements" not in message
