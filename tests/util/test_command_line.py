"""Exit statuses, argument files and help."""

import pytest

from util.command_line import ArgumentParser, FlagGroup, run_command
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
