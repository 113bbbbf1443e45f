"""Curves of runs with several seeds."""

import json

from benchmarks.experiments.convergence import main


def write_log(folder, aps):
    folder.mkdir()
    entries = [{"epoch": i, "test_coco_eval_bbox": [ap, 2 * ap, 0]} for i, ap in enumerate(aps)]
    (folder / "log.txt").write_text("\n".join(map(json.dumps, entries)))
    return str(folder)


def test_seeds_are_joined_and_drawn(tmp_path, capsys):
    folders = [
        write_log(tmp_path / "anchor_s1", [0.05, 0.1, 0.15, 0.2]),
        write_log(tmp_path / "anchor_s2", [0.1, 0.2, 0.3, 0.4]),
        write_log(tmp_path / "learned", [0.05]),
    ]
    output = tmp_path / "curves.png"
    main([*folders, "--output", str(output), "--steps_per_epoch", "10"])
    printed = capsys.readouterr().out
    thirds = "0.150 (0.100 to 0.200) | 0.225 (0.150 to 0.300)"  # after 2 and 3 of 4 epochs
    end = "0.300 (0.200 to 0.400) | 0.600 (0.400 to 0.800)"
    assert f"| anchor | 2 | 40 | {thirds} | {end} |" in printed
    assert "| learned | 1 | 10 | 0.050 | 0.050 | 0.050 | 0.100 |" in printed
    assert output.read_bytes().startswith(b"\x89PNG")
