import json
import math
import sys
from argparse import Namespace

import matplotlib
import numpy as np
import pytest
import torch

from util.errors import UserError
from util.plot_utils import load_eval, plot_logs, plot_precision_recall, read_log, smooth

matplotlib.use("Agg")
from matplotlib import pyplot as plt


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def epoch(number, **fields):
    stats = [0.1 * number, 0.2 * number] + [0.0] * 10
    losses = {"train_loss": 9.0 - number, "test_loss": 8.0 - number, "train_lr": 1e-4}
    return {"epoch": number, **losses, "test_coco_eval_bbox": stats, **fields}


def write_log(folder, epochs, tail=""):
    folder.mkdir(exist_ok=True)
    (folder / "log.txt").write_text("".join(json.dumps(e) + "\n" for e in epochs) + tail)
    return folder


def evaluation(num_classes=2, precision=0.5):
    shape = (10, 101, num_classes, 4, 3)
    values = torch.full(shape, precision, dtype=torch.float64)
    values[..., -1, :, :] = -1  # the last class has no objects
    return {
        "params": Namespace(recThrs=torch.linspace(0, 1, 101)),
        "precision": values,
        "scores": values.clone(),
        "recall": torch.full((10, num_classes, 4, 3), 0.25, dtype=torch.float64),
    }


def lines(ax):
    return {
        line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in ax.lines
    }


class TestPlotLogs:
    def test_draws_train_and_test_over_the_epochs(self, tmp_path):
        run = write_log(tmp_path / "run", [epoch(n) for n in range(3)])
        _, axs = plot_logs(run, fields=("loss", "mAP"))
        assert lines(axs[0]) == {
            "run train": ([0, 1, 2], [9, 8, 7]),
            "run test": ([0, 1, 2], [8, 7, 6]),
        }
        assert lines(axs[1]) == {"run test": ([0, 1, 2], [0, 0.2, 0.4])}
        assert [line.get_linestyle() for line in axs[0].lines] == ["-", "--"]

    def test_several_runs_have_colours_of_their_own(self, tmp_path):
        runs = [write_log(tmp_path / name, [epoch(0), epoch(1)]) for name in "ab"]
        _, axs = plot_logs(runs, fields=["loss"])
        colours = [line.get_color() for line in axs[0].lines]
        assert list(lines(axs[0])) == ["a train", "a test", "b train", "b test"]
        assert colours[0] == colours[1] != colours[2] == colours[3]

    def test_epochs_without_the_field_are_left_out(self, tmp_path):
        run = write_log(tmp_path / "run", [epoch(0, extra=1), epoch(5, test_extra=2.0), epoch(7)])
        _, axs = plot_logs([run], fields=["extra"])
        assert lines(axs[0]) == {"run test": ([5], [2.0])}

    def test_a_field_that_no_log_has(self, tmp_path):
        run = write_log(tmp_path / "run", [epoch(0)])
        with pytest.raises(UserError, match=r"field 'los'; there are: coco_eval_bbox, loss, lr"):
            plot_logs(run, fields=["los"])

    def test_a_last_epoch_without_evaluation(self, tmp_path):
        last = {"epoch": 2, "train_loss": 7.0}
        run = write_log(tmp_path / "run", [epoch(0), epoch(1), last])
        _, axs = plot_logs(run, fields=("loss", "mAP"))
        assert lines(axs[0]) == {
            "run train": ([0, 1, 2], [9, 8, 7]),
            "run test": ([0, 1], [8, 7]),
        }
        with pytest.raises(UserError, match=r"there are: coco_eval_bbox, loss, lr"):
            plot_logs(run, fields=["los"])

    def test_without_matplotlib_the_error_names_it(self, tmp_path, monkeypatch):
        run = write_log(tmp_path / "run", [epoch(0)])
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(UserError, match="pip install matplotlib"):
            plot_logs(run, fields=["loss"])


class TestReadLog:
    def test_a_last_line_that_was_cut_off_is_left_out(self, tmp_path):
        folder = write_log(tmp_path / "run", [epoch(0), epoch(1)], tail='{"epoch": 2, "tra')
        assert [e["epoch"] for e in read_log(folder / "log.txt")] == [0, 1]

    def test_another_broken_line_is_named(self, tmp_path):
        folder = write_log(tmp_path / "run", [epoch(0)], tail="oops\n{}\n")
        with pytest.raises(UserError, match=r"log\.txt, line 2 is not JSON"):
            read_log(folder / "log.txt")

    def test_an_empty_log(self, tmp_path):
        folder = write_log(tmp_path / "run", [])
        with pytest.raises(UserError, match="no finished epoch"):
            read_log(folder / "log.txt")

    def test_a_missing_log(self, tmp_path):
        with pytest.raises(UserError, match=r"No such file.*--output_dir"):
            read_log(tmp_path / "log.txt")


class TestSmooth:
    def test_is_the_weighted_mean_of_all_values_so_far(self):
        values, c = [3.0, 1.0, 4.0, 1.0, 5.0], 2.5
        expected = []
        for n in range(len(values)):
            weights = [(c / (1 + c)) ** (n - k) for k in range(n + 1)]
            total = sum(w * v for w, v in zip(weights, values, strict=False))
            expected.append(total / sum(weights))
        assert smooth(values, c).tolist() == pytest.approx(expected)

    def test_zero_changes_nothing(self):
        assert smooth([3.0, 1.0, 4.0], 0).tolist() == [3.0, 1.0, 4.0]

    def test_nan_leaves_the_mean_as_it_was(self):
        first, second, third = smooth([math.nan, 2.0, math.nan], 1).tolist()
        assert math.isnan(first) and second == third == 2.0


class TestPlotPrecisionRecall:
    def save(self, folder, name="latest.pth", **options):
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(evaluation(**options), folder / name)
        return folder / name

    def test_draws_the_mean_over_classes_with_objects(self, tmp_path, capsys):
        _, axs = plot_precision_recall([self.save(tmp_path / "eval", precision=0.5)])
        for ax in axs:
            ((recall, values),) = lines(ax).values()
            assert recall == pytest.approx(np.linspace(0, 1, 101))
            assert values == [0.5] * 101
        printed = capsys.readouterr().out
        assert "mAP@50= 50.0" in printed and f"f1={2 * 0.5 * 0.25 / 0.75:.3f}" in printed

    def test_names_come_from_the_file_or_the_run(self, tmp_path):
        path = self.save(tmp_path / "my_run" / "eval")
        alone = self.save(tmp_path / "other_run", "eval.pth")
        assert list(lines(plot_precision_recall(path)[1][0])) == ["latest"]
        _, axs = plot_precision_recall([path, alone], naming_scheme="exp_id")
        assert list(lines(axs[1])) == ["my_run", "other_run"]

    def test_a_set_without_objects_draws_nothing(self, tmp_path):
        _, axs = plot_precision_recall(self.save(tmp_path, num_classes=1))
        ((_, values),) = lines(axs[0]).values()
        assert all(math.isnan(value) for value in values)

    def test_an_unknown_naming_scheme(self, tmp_path):
        with pytest.raises(ValueError, match="'epoch', expected 'iter' or 'exp_id'"):
            plot_precision_recall(self.save(tmp_path), naming_scheme="epoch")


class TestLoadEval:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(UserError, match="No such file"):
            load_eval(tmp_path / "eval.pth")

    def test_objects_of_pycocotools_are_refused_with_the_way_out(self, tmp_path):
        from pycocotools.cocoeval import Params

        torch.save({**evaluation(), "params": Params(iouType="bbox")}, tmp_path / "eval.pth")
        with pytest.raises(UserError, match=r"pycocotools.*main\.py --eval"):
            load_eval(tmp_path / "eval.pth")

    def test_another_kind_of_file(self, tmp_path):
        torch.save({"model": {}}, tmp_path / "checkpoint.pth")
        with pytest.raises(UserError, match="not a saved evaluation"):
            load_eval(tmp_path / "checkpoint.pth")
