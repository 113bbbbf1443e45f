"""Defaults of the newer flags."""

import argparse

import pytest

import main
from tests.terminals import Terminal
from util.options import NEW_FLAG_DEFAULTS, fill_in_new_flags, option, prints_short


def test_a_missing_flag_means_its_default():
    args = argparse.Namespace(max_size=600)
    assert option(args, "max_size") == 600
    assert option(args, "backbone_weights") == "imagenet"
    fill_in_new_flags(args)
    assert vars(args) == {**NEW_FLAG_DEFAULTS, "max_size": 600}


def test_an_unknown_flag_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        option(argparse.Namespace(), "no_such_flag")


def test_the_parser_takes_its_defaults_from_the_table():
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    args = vars(parser.parse_args([]))
    assert {name: args[name] for name in NEW_FLAG_DEFAULTS} == NEW_FLAG_DEFAULTS


@pytest.mark.parametrize(
    ("log_style", "on_terminal", "redirected"),
    [("auto", True, False), ("short", True, True), ("full", False, False)],
)
def test_log_style_auto_is_short_on_a_terminal_only(log_style, on_terminal, redirected, capsys):
    with Terminal() as terminal:
        assert prints_short(log_style) == on_terminal
    terminal.text()
    assert prints_short(log_style) == redirected
