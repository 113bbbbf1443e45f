"""Terminal output of rank 0 and of other ranks."""

import builtins
import logging
import sys

import pytest

from util.cli.command_line import run_command
from util.distributed import process_output
from util.distributed.process_output import only_main_prints
from util.errors import UserError


def test_rank_0_is_unchanged(capsys):
    before = sys.stdout, logging.getLogger().handlers, logging.getLogger().level
    with only_main_prints(0):
        assert (sys.stdout, logging.getLogger().handlers, logging.getLogger().level) == before
        print("told")
    assert capsys.readouterr().out == "told\n"


def test_other_ranks_write_only_to_stderr(capsys):
    plain_print = builtins.print
    with only_main_prints(3):
        assert builtins.print is plain_print
        print("not told")
        sys.stdout.write("nor this")
        print("an error", file=sys.stderr)
        logging.info("nor this")
        logging.getLogger("some.library").warning("%d images", 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "an error\nrank 3: WARNING: 2 images\n"


def test_everything_is_restored_after_an_error(capsys):
    before = sys.stdout, logging.getLogger().handlers, logging.getLogger().level
    with pytest.raises(KeyboardInterrupt), only_main_prints(1):
        raise KeyboardInterrupt
    assert (sys.stdout, logging.getLogger().handlers, logging.getLogger().level) == before
    print("told")
    assert capsys.readouterr().out == "told\n"


@pytest.mark.parametrize(
    ("environment", "waits"),
    [
        ({}, False),
        ({"RANK": "1"}, False),  # not under torchrun, which would end this process
        ({"RANK": "0", "TORCHELASTIC_RUN_ID": "x"}, False),
        ({"RANK": "3", "TORCHELASTIC_RUN_ID": "x"}, True),
    ],
)
def test_rank_0_reports_first_under_torchrun(monkeypatch, capsys, environment, waits):
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    printed_before = []
    monkeypatch.setattr(
        process_output.time, "sleep", lambda _: printed_before.append(capsys.readouterr().err)
    )

    def command():
        raise UserError("a mistake")

    assert run_command("tool", command) == 2
    assert printed_before == ([""] if waits else [])
    assert capsys.readouterr().err == "tool: error: a mistake\n"
