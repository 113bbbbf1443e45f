"""What the documents claim to be held by tests is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def claimed_tests(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", text)


@pytest.mark.parametrize("document", ["docs/reliability.md", "docs/DIFFERENCES.md"])
def test_named_tests_exist(document):
    names = claimed_tests(document)
    assert len(names) >= 40
    for name in names:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert not function or f"def {function}(" in (ROOT / path).read_text(), name


def test_at_least_forty_faults_are_listed():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "::test_" in line]
    assert len(rows) >= 40


@pytest.mark.parametrize("document", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"])
def test_every_table_has_a_head(document):
    lines = document.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|") and (number == 0 or not lines[number - 1].startswith("|")):
            assert lines[number + 1].startswith("|--"), f"{document.name}:{number + 1}"
