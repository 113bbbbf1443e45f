"""util/distributed/process_output.py: who writes to the terminal, and that all is put back."""

import builtins
import logging
import sys

import pytest

from util.distributed.process_output import only_main_prints


def test_the_main_process_is_left_as_it_is(capsys):
    before = sys.stdout, logging.getLogger().handlers, logging.getLogger().level
    with only_main_prints(0):
        assert (sys.stdout, logging.getLogger().handlers, logging.getLogger().level) == before
        print("told")
    assert capsys.readouterr().out == "told\n"


def test_another_one_writes_to_stderr_alone(capsys):
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


def test_all_is_put_back_after_an_error(capsys):
    before = sys.stdout, logging.getLogger().handlers, logging.getLogger().level
    with pytest.raises(KeyboardInterrupt), only_main_prints(1):
        raise KeyboardInterrupt
    assert (sys.stdout, logging.getLogger().handlers, logging.getLogger().level) == before
    print("told")
    assert capsys.readouterr().out == "told\n"
