"""The table of differences in docs/export.md: measured again, and complete."""

import re
from pathlib import Path

import pytest

from tests.export.differences import COMMANDS, LIMIT, ROWS, differences
from tests.narrow_resnet import NARROW

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "export.md"
SMALL = f"--backbone {NARROW} --enc_layers 1 --dec_layers 1 --hidden_dim 32 --dim_feedforward 16"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("row", ROWS)
def test_every_format_computes_what_pytorch_does(row):
    """The comparison is in the commands, which fail above the limit."""
    assert [name for name, _ in differences(row)] == list(COMMANDS)


@pytest.mark.slow
def test_every_format_of_a_small_model_computes_what_pytorch_does():
    """The flags of the first row have no other test of exported files."""
    assert [name for name, _ in differences(next(iter(ROWS)), SMALL)] == list(COMMANDS)


def test_the_document_has_every_row_and_no_larger_number():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    for row in ROWS:
        (line,) = [line for line in lines if line.startswith(f"| {row} |")]
        cells = line.split("|")[2:-1]
        assert len(cells) == len(COMMANDS)
        numbers = re.findall(r"\d+e[+-]\d+", line)
        assert len(numbers) >= 3 and all(float(number) < LIMIT for number in numbers)
