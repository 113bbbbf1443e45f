"""The command line end to end, on tiny data, and what it says of mistakes."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import main
from tests.cheap_runs import with_pictures
from tests.drawn_data import drawn_data
from tests.narrow_resnet import NARROW, SHALLOW
from training import evaluation
from util.options import NEW_FLAG_DEFAULTS

ROOT = Path(main.__file__).parent
NETWORK = (
    "--backbone resnet18 --backbone_weights none --hidden_dim 32 --nheads 4 --enc_layers 1 "
    "--dec_layers 2 --num_queries 6 --dim_feedforward 32"
)
FLAGS = f"{NETWORK} --num_workers 0 --batch_size 2 --scales 64 --device cpu".split()
SIMPLE = [*FLAGS, "--backbone", SHALLOW, "--dec_layers", "1"]  # as `run_simple`
LOSSES = ["loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0"]

data = drawn_data(num_train=6, num_val=4)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """One epoch of training: its folder."""
    folder = tmp_path_factory.mktemp("run")
    detections = ["--dump_detections", str(folder / "found.json")]
    with with_pictures():
        flags = ["--epochs", "1", "--lr_drop", "1", "--output_dir", folder]
        assert run(data, *flags, *detections) == 0
    return folder


def run(data, *flags):
    """Run a command line in this process, with a narrow backbone and no output by default."""
    flags = ["--backbone", SHALLOW, "--output_dir", "", *map(str, flags)]
    return main.run([*FLAGS, "--coco_path", str(data), *flags])


def run_simple(data, *flags):
    """`run` without auxiliary losses: with one decoder layer, a quarter less to compute."""
    return run(data, "--dec_layers", "1", *flags)


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def read_checkpoint(path, weights_only=False):
    """The content of a checkpoint; twice as fast as with ``weights_only``, which runs use."""
    return torch.load(path, map_location="cpu", weights_only=weights_only)


# ---- a run


def test_the_kernel_of_resizing_is_saved(data, tmp_path, capsys):
    assert run(data, "--epochs", "1", "--resize", "torch", "--output_dir", tmp_path) == 0
    assert read_checkpoint(tmp_path / "checkpoint.pth")["args"]["resize"] == "torch"
    capsys.readouterr()
    assert run(data, "--eval", "--resume", tmp_path / "checkpoint.pth") == 0
    assert "--resize torch" in capsys.readouterr().out


def test_padding_is_reported_with_groups(data, tmp_path, capsys):
    flags = ["--epochs", "1", "--crop_prob", "0", "--group_aspect"]
    whole = ["--output_dir", tmp_path / "whole", "--save_every", "2", "--keep_last", "9"]
    assert run(data, *flags, *whole) == 0
    assert "--group_aspect: about 0.0% of the pixels" in capsys.readouterr().out
    (entry,) = read_log(tmp_path / "whole")
    assert entry["train_padding"] == 0  # all images are square, of one scale
    resume = ["--resume", tmp_path / "whole" / "checkpoint-step000000002.pth"]
    assert run(data, *flags, *resume, "--output_dir", tmp_path / "rest") == 0
    (entry,) = read_log(tmp_path / "rest")
    assert "train_padding" not in entry  # of the last batch alone


def test_an_epoch_leaves_the_files_of_the_original(trained):
    files = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert files == {
        *("checkpoint.pth", "checkpoint0000.pth", "best.pth", "log.txt"),
        *(
            "eval/000.pth",
            "eval/latest.pth",
            "eval/detections.json",
            "eval/data.json",
            "config.txt",
        ),
        *("detections.png", "found.json"),
    }


def test_log_has_the_fields_of_the_original(trained):
    (entry,) = read_log(trained)
    numbers = ["class_error", "loss", *LOSSES]
    numbers += [f"{n}_unscaled" for n in [*LOSSES, "class_error"]]
    numbers += ["cardinality_error_unscaled", "cardinality_error_0_unscaled"]
    fields = [f"{split}_{name}" for split in ("train", "test") for name in numbers]
    assert set(fields) | {"train_lr", "test_coco_eval_bbox", "epoch", "n_parameters"} == set(entry)
    assert len(entry["test_coco_eval_bbox"]) == 12 and entry["epoch"] == 0


def test_checkpoint_loads_without_trust_and_knows_its_run(trained):
    checkpoint = read_checkpoint(trained / "checkpoint.pth", weights_only=True)
    assert {"model", "optimizer", "lr_scheduler", "epoch", "args"} <= checkpoint.keys()
    assert checkpoint["args"]["hidden_dim"] == 32 and checkpoint["args"]["num_classes"] == 91
    assert checkpoint["categories"][1] == "ellipse"
    assert [group["lr"] for group in checkpoint["optimizer"]["param_groups"]] == pytest.approx(
        [1e-5, 1e-6]
    )


def test_resume_continues_where_the_run_ended(data, trained, tmp_path):
    resume = ["--resume", trained / "checkpoint.pth", "--epochs", "2", "--lr_drop", "1"]
    assert run(data, *resume, "--output_dir", tmp_path) == 0
    (entry,) = read_log(tmp_path)
    assert entry["epoch"] == 1 and entry["train_lr"] == pytest.approx(1e-5)
    optimizer = read_checkpoint(tmp_path / "checkpoint.pth")["optimizer"]
    assert float(optimizer["state"][0]["step"]) == 6  # three batches an epoch


def test_a_finished_run_says_so(data, trained, capsys):
    assert run(data, "--resume", trained / "checkpoint.pth", "--epochs", "1") == 0
    assert "Nothing left to do" in capsys.readouterr().out


def test_evaluation_alone_repeats_the_last_epoch(data, trained, tmp_path, monkeypatch):
    results = []
    evaluate = evaluation.evaluate
    monkeypatch.setattr(
        evaluation, "evaluate", lambda *a, **k: results.append(evaluate(*a, **k)) or results[-1]
    )
    found = tmp_path / "found.json"
    resume = ["--eval", "--resume", trained / "checkpoint.pth", "--output_dir", tmp_path]
    assert run(data, *resume, "--dump_detections", found) == 0
    (entry,) = read_log(trained)
    stats = results[0][0]
    assert {f"test_{name}": value for name, value in stats.items()} == {
        name: value for name, value in entry.items() if name.startswith("test_")
    }
    assert json.loads(found.read_text()) == json.loads((trained / "found.json").read_text())
    assert (tmp_path / "eval.pth").is_file() and not (tmp_path / "log.txt").exists()


def test_a_released_checkpoint_with_a_namespace_is_read(data, trained, tmp_path):
    checkpoint = read_checkpoint(trained / "checkpoint.pth")
    released = {**checkpoint, "args": argparse.Namespace(**checkpoint["args"])}
    torch.save(released, tmp_path / "released.pth")
    assert run(data, "--eval", "--resume", tmp_path / "released.pth") == 0


def test_nothing_is_written_without_a_folder(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(data, "--epochs", "1", "--no_aux_loss", "--output_dir", "") == 0
    assert not any(tmp_path.iterdir())
    assert "this run saves neither checkpoints nor logs" in capsys.readouterr().out


def test_finetuning_keeps_what_fits(data, trained, capsys):
    source = trained / "checkpoint.pth"
    flags = ["--finetune", source, "--num_classes", "7", "--num_queries", "9", "--epochs", "1"]
    assert run(data, *flags) == 0
    output = capsys.readouterr().out
    assert "class_embed.bias: 92 rows in the file, 8 in the model; loaded: no-object and" in output
    assert "query_embed.weight: the 6 queries in the file, and 3 new ones" in output


def test_flags_from_a_file_with_comments(data, tmp_path):
    file = tmp_path / "recipe.txt"
    file.write_text(f"# tiny\n--epochs 1  # one\n--coco_path '{data}'\n{' '.join(FLAGS)}\n")
    narrow = ["--backbone", SHALLOW]
    assert main.run([f"@{file}", *narrow, "--output_dir", str(tmp_path / "out")]) == 0
    assert len(read_log(tmp_path / "out")) == 1


def test_shapes_take_the_number_of_classes_from_the_data(data, tmp_path):
    flags = ["--dataset_file", "shapes", "--epochs", "1", "--output_dir", tmp_path]
    assert run(data, *flags) == 0
    assert len(read_checkpoint(tmp_path / "checkpoint.pth")["model"]["class_embed.bias"]) == 7


def test_a_namespace_of_the_original_alone_is_enough(data):
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    flags = [*FLAGS, "--backbone", SHALLOW]
    args = parser.parse_args([*flags, "--coco_path", str(data), "--eval"])
    for name in set(vars(args)) & set(NEW_FLAG_DEFAULTS):
        if name not in ("scales", "backbone_weights"):
            delattr(args, name)
    main.main(args)


# ---- mistakes


def spoil(data, folder, change):
    """A copy of the data's annotations with a fault, and the flags that use it."""
    content = json.loads((data / "annotations/instances_train2017.json").read_text())
    change(content)
    path = folder / "spoilt.json"
    path.write_text(json.dumps(content))
    return ["--train_ann", str(path), "--train_images", str(data / "train2017")]


def set_box(content, box):
    content["annotations"][0]["bbox"] = box


MISTAKES = {
    "no data": (["--coco_path", ""], "--coco_path"),
    "missing folder": (["--coco_path", "/nowhere"], "/nowhere"),
    "missing annotations": (["--train_ann", "/nowhere.json"], "/nowhere.json"),
    "unknown dataset": (["--dataset_file", "pets"], "pets"),
    "dropout": (["--dropout", "2"], "--dropout"),
    "learning rate": (["--lr", "-1"], "--lr -1"),
    "epochs": (["--epochs", "0"], "--epochs 0"),
    "workers": (["--num_workers", "-1"], "--num_workers"),
    "costs": (
        ["--set_cost_class", "0", "--set_cost_bbox", "0", "--set_cost_giou", "0"],
        "--set_cost_class",
    ),
    "large ids": (["--num_classes", "2"], "category_id"),
    "no folder for detections": (["--dump_detections", "/nowhere/x.json"], "--dump_detections"),
    "a folder for detections": (["--dump_detections", "/"], "--dump_detections"),
    "no such device": (["--device", "meta"], "--device meta: PyTorch cannot compute on meta here"),
    "device": (["--device", "cuda:77"], "--device cuda:77: "),
    "kind of device": (["--device", "gpu"], "--device gpu: unknown device type; use"),
    "classes": (["--num_classes", "1"], "the largest category id is 5, so 6 are needed; omit"),
    "heads": (["--nheads", "5"], "--hidden_dim"),
    "batch size": (["--batch_size", "0"], "--batch_size 0"),
    "more than the data": (
        ["--batch_size", "50"],
        "has only 6 training images, fewer than one optimizer step needs; use",
    ),
    "no checkpoint": (["--resume", "/nowhere.pth"], "/nowhere.pth"),
    "two starts": (["--resume", "a.pth", "--finetune", "b.pth"], "--finetune"),
    "threshold": (["--masks", "--panoptic_threshold", "85"], "must be at most 1 (0.3 means 30 %)"),
    "own data": (["--dataset_file", "shapes", "--coco_path", ROOT], "add --dataset_file coco"),
    "threshold of nothing": (["--panoptic_threshold", "0.5"], "requires --masks"),
    "thin masks": (["--masks", "--hidden_dim", "8", "--nheads", "2"], "--hidden_dim 8"),
    "panoptic": (["--dataset_file", "coco_panoptic"], "--coco_panoptic_path"),
    "frozen": (["--frozen_weights", "a.pth"], "--frozen_weights"),
    "dilation": (["--dilation", "--backbone", NARROW], "--dilation"),
    "backbone": (["--backbone", "vgg16"], "vgg16"),
    "frozen batch norm": (["--backbone_norm", "batch", "--lr_backbone", "0"], "--backbone_norm"),
    "backbone file": (["--backbone_weights", "/nowhere.pth"], "/nowhere.pth"),
    "scales": (["--scales", "0"], "--scales"),
    "one image grouped": (["--group_aspect", "--batch_size", "1"], "--group_aspect"),
    "too much cropped": (["--crop_prob", "1.5"], "--crop_prob 1.5"),
    "cropped less than never": (["--crop_prob", "-0.1"], "--crop_prob -0.1"),
    "too much mirrored": (["--flip_prob", "1.5"], "--flip_prob 1.5"),
}


def assert_one_line(capsys, status, *words):
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert error.startswith("main.py: error: ") and "\n" not in error, error
    for word in words:
        assert word in error


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_line(data, capsys, name):
    flags, word = MISTAKES[name]
    assert_one_line(capsys, run(data, "--epochs", "1", *flags), word)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: set_box(c, [1, 2, float("nan"), 4]), ["bbox", "annotation"]),
        (lambda c: set_box(c, [1, 2, 3]), ["bbox", "annotation"]),
        (lambda c: c["annotations"][0].update(category_id=-1), ["category_id", "annotation"]),
        (lambda c: c["annotations"][0].update(category_id="cat"), ["category_id", "annotation"]),
        (lambda c: c["annotations"][0].update(image_id=5), ["image", "annotation"]),
        (lambda c: c["annotations"][0].pop("bbox"), ["bbox", "annotation"]),
        (lambda c: c["images"][0].update(file_name="no.png"), ["no.png"]),
        (lambda c: c.update(annotations=[]), ["annotations"]),
    ],
)
def test_faults_of_annotations_are_named_before_training(data, capsys, tmp_path, change, words):
    flags = spoil(data, tmp_path, change)
    assert_one_line(capsys, run(data, "--epochs", "1", *flags), "spoilt.json", *words)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named_when_it_is_read(data, capsys, tmp_path, num_workers):
    images = tmp_path / "images"
    images.mkdir()
    for path in (data / "train2017").iterdir():
        (images / path.name).write_bytes(path.read_bytes()[:60])
    flags = ["--train_images", images, "--num_workers", num_workers, "--epochs", "1"]
    assert_one_line(capsys, run(data, *flags), str(images), ".png")


def test_a_wrong_device_is_reported_before_processes_connect(data, capsys, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1" if name == "WORLD_SIZE" else "0")
    assert_one_line(capsys, run(data, "--device", "gpu"), "--device gpu: unknown device type")


def test_foreign_and_unfitting_checkpoints(data, trained, capsys, tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    assert_one_line(capsys, run(data, "--resume", tmp_path / "text.pth"), "text.pth")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    assert_one_line(capsys, run(data, "--resume", tmp_path / "other.pth"), "other.pth")
    own = trained / "checkpoint.pth"
    assert_one_line(capsys, run(data, "--resume", own, "--num_queries", "7"), "--num_queries 6")
    mismatch = run(data, "--resume", own, "--num_classes", "5")
    assert_one_line(capsys, mismatch, "--num_classes 5", "91", "--finetune")


def test_resuming_with_other_trained_parameters(data, trained, capsys):
    flags = ["--resume", trained / "checkpoint.pth", "--lr_backbone", "0", "--epochs", "2"]
    assert_one_line(capsys, run(data, *flags), "--lr_backbone", "--finetune")


def test_learned_positions_end_at_fifty_cells(data, capsys):
    flags = ["--position_embedding", "learned", "--scales", "1632", "--max_size", "1632"]
    flags += ["--epochs", "1", "--batch_size", "1"]
    assert_one_line(capsys, run(data, *flags), "--position_embedding sine")


def test_an_output_folder_that_is_a_file(data, capsys, tmp_path):
    (tmp_path / "file").touch()
    status = run(data, "--epochs", "1", "--output_dir", tmp_path / "file")
    assert_one_line(capsys, status, "--output_dir")


def test_imagenet_weights_out_of_reach(data, capsys, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    flags = ["--backbone", "resnet18", "--backbone_weights", "imagenet"]
    assert_one_line(capsys, run(data, *flags), "--backbone_weights")


SLOW_TO_IMPORT = "numpy torch torchvision scipy matplotlib pycocotools faster_coco_eval pandas PIL"


def test_help_has_no_screen_of_usage():
    assert main.build_parser().format_help().index("options:") < 200


@pytest.mark.parametrize("arguments", ["main.py", "predict.py", "-m report"])
def test_help_needs_no_slow_imports(arguments):
    command = [sys.executable, "-X", "importtime", *arguments.split(), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & set(SLOW_TO_IMPORT.split())


def test_the_command_line_chooses_the_device_of_the_parser():
    wanted = main.get_args_parser().parse_args([]).device
    assert main.parse_command_line(["--coco_path", "x"]).args.device == wanted
    assert main.parse_command_line(["--device", "cuda:7"]).args.device == "cuda:7"


def test_wrong_flags_end_like_other_mistakes(capsys):
    with pytest.raises(SystemExit) as end:
        main.run(["--no_such_flag"])
    assert_one_line(capsys, end.value.code, "--no_such_flag")


def test_divergence_has_a_status_of_its_own(data, capsys):
    assert run(data, "--lr", "1e30", "--lr_backbone", "1e30", "--epochs", "2") == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("main.py: training stopped: ") and "\n" not in error


def test_each_rank_draws_its_own_random_numbers(monkeypatch):
    """Else all ranks would drop the same activations, and add the same noise."""
    monkeypatch.setattr("util.distributed.processes.get_rank", lambda: 3)
    monkeypatch.setattr("training.data.build_data", lambda *_: sys.exit())
    args, given, _ = main.parse_command_line(["--device", "cpu", "--seed", "40", "--eval"])
    with pytest.raises(SystemExit):
        main._train_or_evaluate(args, given)
    assert torch.initial_seed() == 43
