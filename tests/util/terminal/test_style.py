"""--log_style auto is short on a terminal only."""

import pytest

from tests.terminals import Terminal
from util.terminal.style import prints_short


@pytest.mark.parametrize(
    ("log_style", "on_terminal", "redirected"),
    [("auto", True, False), ("short", True, True), ("full", False, False)],
)
def test_styles(log_style, on_terminal, redirected, capsys):
    with Terminal() as terminal:
        assert prints_short(log_style) == on_terminal
    terminal.text()
    assert prints_short(log_style) == redirected
