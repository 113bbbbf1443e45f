"""The figure of how cost grows."""

from benchmarks.experiments import growth


def test_all_panels_are_measured_and_drawn(tmp_path, capsys):
    file = tmp_path / "growth.svg"
    assert growth.main(["--quick", "--output", str(file)]) == 0
    assert "</svg>" in file.read_text()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) >= 1 + 2 * len(growth.PANELS)  # the head of the table, and two values each
