"""Category ids of every kind, from the annotation file to the detections."""

import json

import pytest
import torch

from report.results import read_results
from tests.drawn_data import drawn_data
from tests.test_main import assert_one_line, read_checkpoint, read_log
from tests.test_main import run_simple as run
from util.category_ids import category_id_of

TEXTS = sorted(("disc", "box 2", "ring/red", "étoile", "000"), key=category_id_of)
# The user's ids of the five shapes, ascending as category ids: a shape has the same row for each.
DENSE = {
    "gaps": [2, 3, 40, 90, 300],
    "millions": [5, 1_000_000, 2_000_001, 3 * 10**9, 2**62],
    "text": TEXTS,
    "numbers as text": ["3", "17", "29", "300", "301"],
}
IDS_ARE_ROWS = {"from 0": list(range(5)), "from 1": list(range(1, 6))}

shapes = drawn_data(num_train=4, num_val=3)


def write_split(shapes, folder, split, change):
    """A split with changed annotations, and the flags that use it."""
    folder.mkdir(exist_ok=True)
    content = json.loads((shapes / f"annotations/instances_{split}2017.json").read_text())
    change(content)
    path = folder / f"{split}.json"
    path.write_text(json.dumps(content))
    return [f"--{split}_ann", path, f"--{split}_images", shapes / f"{split}2017"]


def with_ids(own_ids, extra=(), shuffled=False):
    """A change of annotations: the shapes have the given ids."""

    def change(content):
        for row in content["categories"]:
            row["id"] = own_ids[row["id"] - 1]
        for row in content["annotations"]:
            row["category_id"] = own_ids[row["category_id"] - 1]
        content["categories"] += [{"id": i, "name": f"unused {i}"} for i in extra]
        if shuffled:
            content["categories"].reverse()
            content["annotations"].reverse()

    return change


def run_with_ids(shapes, folder, own_ids, *flags, shuffled=False, extra=()):
    """Run on data with the given ids; the order in the validation file may be reversed."""
    train = write_split(shapes, folder, "train", with_ids(own_ids, extra))
    val = write_split(shapes, folder, "val", with_ids(own_ids, extra, shuffled))
    return run(shapes, *train, *val, "--output_dir", folder, *flags)


def train_with_ids(shapes, folder, own_ids, *flags, **options):
    """One epoch: checkpoint, log entry and detections."""
    found = folder / "found.json"
    flags = ["--epochs", "1", "--dump_detections", found, *flags]
    assert run_with_ids(shapes, folder, own_ids, *flags, **options) == 0
    (entry,) = read_log(folder)
    return read_checkpoint(folder / "checkpoint.pth"), entry, json.loads(found.read_text())


@pytest.fixture(scope="module")
def reference(shapes, tmp_path_factory):
    """Ids that are the row numbers of a head of the same size."""
    folder = tmp_path_factory.mktemp("reference")
    return train_with_ids(shapes, folder, IDS_ARE_ROWS["from 0"], "--num_classes", "5")


@pytest.fixture(scope="module")
def text_run(shapes, tmp_path_factory):
    """A run with text ids: its folder."""
    folder = tmp_path_factory.mktemp("text")
    train_with_ids(shapes, folder, TEXTS)
    return folder


def assert_same_run(run, reference, own_ids):
    checkpoint, entry, found = run
    expected_checkpoint, expected_entry, expected = reference
    for name, weights in expected_checkpoint["model"].items():
        assert torch.equal(checkpoint["model"][name], weights), name
    assert entry == expected_entry
    assert found == [{**one, "category_id": own_ids[one["category_id"]]} for one in expected]


@pytest.mark.parametrize("kind", DENSE)
def test_from_annotation_file_to_detections(shapes, reference, tmp_path, kind):
    """Nothing but the ids differs from a run in which they are row numbers."""
    own_ids = DENSE[kind]
    result = train_with_ids(shapes, tmp_path / "run", own_ids, shuffled=True)
    assert_same_run(result, reference, own_ids)
    assert result[0]["category_ids"] == own_ids
    names = {category_id_of(own_ids[i]): name for i, name in reference[0]["categories"].items()}
    assert result[0]["categories"] == names


@pytest.mark.parametrize("kind", IDS_ARE_ROWS)
def test_ids_that_fit_cocos_head_are_row_numbers(shapes, tmp_path, kind):
    checkpoint, _, _ = train_with_ids(shapes, tmp_path / "run", IDS_ARE_ROWS[kind])
    assert checkpoint["category_ids"] is None
    assert len(checkpoint["model"]["class_embed.bias"]) == 92


def test_300_classes(shapes, tmp_path):
    """Ids 1 to 300: row numbers too, as their maximum plus one has always been the number."""
    own_ids = [1, 2, 150, 299, 300]
    others = [i for i in range(1, 301) if i not in own_ids]
    checkpoint, _, found = train_with_ids(shapes, tmp_path / "run", own_ids, extra=others)
    assert checkpoint["category_ids"] is None and len(checkpoint["categories"]) == 300
    assert len(checkpoint["model"]["class_embed.bias"]) == 302
    assert {one["category_id"] for one in found} <= set(range(301))


def test_the_report_reads_detections_with_text_ids(text_run):
    written = json.loads((text_run / "eval" / "detections.json").read_text())
    assert written and {one["category_id"] for one in written} <= set(TEXTS)
    found = read_results(text_run).detections
    assert [one["category_id"] for one in found] == [
        category_id_of(one["category_id"]) for one in written
    ]


def test_evaluation_has_the_ids_of_the_checkpoint(shapes, text_run, tmp_path):
    """Also from a file in another order, with a class that no object has."""
    found = tmp_path / "found.json"
    change = with_ids(TEXTS, extra=["never"], shuffled=True)
    val = write_split(shapes, tmp_path, "val", change)
    resume = ["--eval", "--resume", text_run / "checkpoint.pth", "--dump_detections", found]
    assert run(shapes, *val, *resume) == 0
    assert json.loads(found.read_text()) == json.loads((text_run / "found.json").read_text())


def test_training_continues_with_the_ids_of_the_checkpoint(shapes, text_run, tmp_path):
    resume = ["--resume", text_run / "checkpoint.pth", "--epochs", "2"]
    assert run_with_ids(shapes, tmp_path / "run", TEXTS, *resume) == 0
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint.pth")
    assert checkpoint["category_ids"] == TEXTS and checkpoint["epoch"] == 1


def test_a_class_without_a_row_is_named(shapes, text_run, tmp_path, capsys):
    val = write_split(shapes, tmp_path, "val", with_ids([*TEXTS[:-1], "star"]))
    status = run(shapes, *val, "--eval", "--resume", text_run / "checkpoint.pth", "--skip_checks")
    assert_one_line(capsys, status, "that the head in", "id star (", "--finetune")


def test_ids_beyond_the_number_of_classes(shapes, tmp_path, capsys):
    status = run_with_ids(shapes, tmp_path / "run", DENSE["gaps"], "--num_classes", "5")
    assert_one_line(capsys, status, "--num_classes 5 is too small", "omit --num_classes")


def test_finetuning_finds_classes_by_name(shapes, text_run, tmp_path, capsys):
    """Other ids, another order, other queries, and a class more: the same rows for the same names.

    With a learning rate of 0 the checkpoint holds the weights that training starts with.
    """
    own_ids = [600, 500, 400, 300, 200]
    flags = ["--finetune", text_run / "checkpoint.pth", "--num_queries", "4", "--epochs", "1"]
    flags += ["--lr", "0", "--lr_backbone", "0"]
    assert run_with_ids(shapes, tmp_path / "run", own_ids, *flags, extra=[550]) == 0
    before = read_checkpoint(text_run / "checkpoint.pth")
    after = read_checkpoint(tmp_path / "run" / "checkpoint.pth")
    assert after["category_ids"] == [200, 300, 400, 500, 550, 600]
    for key in ("class_embed.weight", "class_embed.bias"):
        old, new = before["model"][key], after["model"][key]
        assert torch.equal(new[[5, 3, 2, 1, 0, 6]], old)  # the last row is no-object
    key = "query_embed.weight"
    assert torch.equal(after["model"][key], before["model"][key][:4])
    output = capsys.readouterr().out
    assert "6 rows in the file, 7 in the model; loaded: no-object and ellipse" in output
    assert "new: unused 550" in output and "the first 4 of 6 queries in the file" in output


def test_voc_2007_through_the_head_for_91_classes(shapes, tmp_path, capsys):
    """The layout of published logs: 20 classes with ids from 1 and ``--dataset_file coco``."""
    own_ids, others = [1, 5, 9, 15, 20], range(1, 21)

    def as_voc(content):
        with_ids(own_ids, extra=set(others) - set(own_ids))(content)
        for number, row in enumerate(content["annotations"]):
            row["difficult"] = int(number == 0)

    folder = tmp_path / "run"
    flags = [*write_split(shapes, folder, "train", as_voc)]
    flags += [*write_split(shapes, folder, "val", as_voc), "--dataset_file", "coco"]
    assert run(shapes, *flags, "--epochs", "1", "--output_dir", folder) == 0
    checkpoint = read_checkpoint(folder / "checkpoint.pth")
    assert len(checkpoint["model"]["class_embed.bias"]) == 92
    assert checkpoint["category_ids"] is None and len(checkpoint["categories"]) == 20
    (entry,) = read_log(folder)
    assert len(entry["test_coco_eval_bbox"]) == 12
    assert {"test_voc_ap50", "test_voc_ap50_11point"} <= entry.keys()
    output = capsys.readouterr().out
    assert output.index("maxDets=100 ]") < output.index("VOC AP50") < output.index("By class, bbox")


def test_things_and_stuff_with_text_ids(shapes, tmp_path):
    """Panoptic maps have the ids of the file; a threshold of 0 lets an untrained model speak."""
    root = tmp_path / "panoptic"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        for name in (f"{split}2017", f"panoptic_{split}2017"):
            (root / name).symlink_to(shapes / name)
        for kind in ("instances", "panoptic"):
            name = f"annotations/{kind}_{split}2017.json"
            content = json.loads((shapes / name).read_text())
            for row in content["categories"]:
                row["id"] = f"class-{row['id']}"
            for row in content["annotations"]:
                for one in row.get("segments_info", [row]):
                    one["category_id"] = f"class-{one['category_id']}"
            (root / name).write_text(json.dumps(content))
    folder = tmp_path / "run"
    flags = ["--dataset_file", "coco_panoptic", "--coco_panoptic_path", root, "--masks"]
    flags += ["--panoptic_threshold", "0", "--epochs", "1", "--output_dir", folder, "--seed", "1"]
    assert run(root, *flags) == 0
    ids = read_checkpoint(folder / "checkpoint.pth")["category_ids"]
    assert sorted(ids) == sorted(row["id"] for row in content["categories"])
    predictions = json.loads((folder / "panoptic_eval/predictions.json").read_text())
    found = [one for row in predictions["annotations"] for one in row["segments_info"]]
    assert found and {one["category_id"] for one in found} <= set(ids)
    (entry,) = read_log(folder)
    assert entry["test_PQ_all"]["n"] > 0
