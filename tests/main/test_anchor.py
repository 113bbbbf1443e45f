"""Anchor queries, focal loss and denoising in main.py: train, resume, evaluate, fine-tune."""

import pytest
import torch

import predict
from export import torchscript
from tests.cheap_runs import with_pictures
from tests.drawn_data import drawn_data
from tests.test_main import assert_one_line, read_checkpoint, read_log, run
from training import evaluation, evaluation_output, network

ANCHOR = ["--query_design", "anchor", "--cls_loss", "focal", "--denoising", "2"]
ANCHOR += ["--overlap_penalty", "2"]

data = drawn_data(num_train=6, num_val=4)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Two epochs with EMA weights."""
    folder = tmp_path_factory.mktemp("run")
    assert run(data, *ANCHOR, "--ema_decay", "0.5", "--epochs", "2", "--output_dir", folder) == 0
    return folder


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory):
    """An epoch of the published design."""
    folder = tmp_path_factory.mktemp("learned")
    assert run(data, "--epochs", "1", "--output_dir", folder) == 0
    return folder / "checkpoint.pth"


def test_losses_of_denoising_have_their_own_names(trained):
    entry = read_log(trained)[-1]
    names = [f"{n}{s}" for n in ("loss_ce", "loss_bbox", "loss_giou") for s in ("_dn", "_dn_0")]
    assert all(f"train_{name}" in entry and f"train_{name}_unscaled" in entry for name in names)
    assert not any("_dn" in name for name in entry if name.startswith("test_"))
    weighted = sum(v for k, v in entry.items() if "train_loss_" in k and "unscaled" not in k)
    assert entry["train_loss"] == pytest.approx(weighted, rel=1e-4)


def test_a_resumed_run_has_the_same_bits(data, trained, tmp_path):
    flags = [*ANCHOR, "--ema_decay", "0.5", "--output_dir", tmp_path]
    assert run(data, *flags, "--epochs", "1") == 0
    assert run(data, "--auto_resume", "--output_dir", tmp_path, "--epochs", "2") == 0
    whole, resumed = (read_checkpoint(p / "checkpoint.pth") for p in (trained, tmp_path))
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    assert resumed["args"]["query_design"] == "anchor" and resumed["args"]["denoising"] == 2


def test_a_checkpoint_is_evaluated_with_its_own_design(data, trained, capsys):
    assert run(data, "--eval", "--resume", trained / "checkpoint.pth") == 0
    printed = capsys.readouterr().out
    assert "--query_design anchor" in printed and "--cls_loss focal" in printed


def test_figures_have_the_detections_above_the_best_threshold(data, trained, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        evaluation_output, "save_detection_samples", lambda *_, **options: drawn.append(options)
    )
    monkeypatch.setattr(evaluation, "thresholds_in", lambda evaluator: {"best_f1": 0.25})
    checkpoint = ["--eval", "--resume", trained / "checkpoint.pth"]
    with with_pictures():
        assert run(data, *checkpoint, "--output_dir", tmp_path) == 0
    assert {options["threshold"] for options in drawn} == {0.25}  # raw and EMA weights


@pytest.mark.parametrize(
    "flags", [["--query_design", "learned"], ["--cls_loss", "ce"], ["--overlap_penalty", "0.0"]]
)
def test_flags_that_contradict_the_checkpoint(data, trained, capsys, flags):
    start = ["--eval", "--resume", str(trained / "checkpoint.pth")]
    assert_one_line(capsys, run(data, *start, *flags), " ".join(flags), "was trained with")


def test_an_old_checkpoint_has_the_published_design(data, learned, capsys, tmp_path):
    old = read_checkpoint(learned)
    for name in ("query_design", "cls_loss", "denoising", "overlap_penalty"):
        del old["args"][name]
    torch.save(old, tmp_path / "old.pth")
    start = ["--eval", "--resume", str(tmp_path / "old.pth")]
    assert run(data, *start) == 0
    capsys.readouterr()
    assert_one_line(capsys, run(data, *start, *ANCHOR), "--query_design anchor", "learned")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--denoising", "3"], "requires --query_design anchor"),
        (["--denoising", "-1"], "--denoising"),
        (["--overlap_penalty", "2", "--cls_loss", "focal"], "requires --query_design anchor and"),
        ([*ANCHOR, "--overlap_penalty", "-1"], "must be at least 0"),
        (["--focal_alpha", "0.5"], "requires --cls_loss focal"),
        (["--iou_targets"], "requires --cls_loss focal; add it, or use --no_iou_targets"),
        ([*ANCHOR, "--focal_alpha", "1.5"], "at most 1"),
        ([*ANCHOR, "--eos_coef", "0.2"], "--eos_coef 0.2 is not used with --cls_loss focal"),
        ([*ANCHOR, "--position_embedding", "learned"], "use --position_embedding sine"),
    ],
)
def test_mistakes_are_named(data, capsys, flags, says):
    assert_one_line(capsys, run(data, *flags), says)


def test_fine_tuning_from_the_published_design_loads_what_fits(data, learned, capsys):
    assert run(data, "--finetune", learned, *ANCHOR, "--epochs", "1") == 0
    printed = capsys.readouterr().out
    assert "--query_design: learned" in printed and "now anchor" in printed
    report = printed[printed.index("Fine-tuning: ") :]
    assert "query_embed.weight is (6, 32) in the file and (6, 4) in the model" in report
    assert "multihead_attn.query_content.weight" in report  # new
    assert "bbox_embed.layers.0.weight" in report  # not used


def bare_file(checkpoint, folder):
    """A file with nothing but the weights of a checkpoint."""
    torch.save({"model": read_checkpoint(checkpoint)["model"]}, folder / "bare.pth")
    return folder / "bare.pth"


def test_fine_tuning_converts_the_head_for_the_other_loss(data, learned, capsys, tmp_path):
    converted = "converted: class_embed.weight, class_embed.bias: from --cls_loss ce in the file"
    start = ["--cls_loss", "focal", "--epochs", "1", "--lr", "0", "--lr_backbone", "0"]
    start += ["--output_dir", tmp_path / "run", "--finetune"]
    assert run(data, *start, learned) == 0
    assert converted in capsys.readouterr().out
    before, after = (
        read_checkpoint(p)["model"]["class_embed.bias"]
        for p in (learned, tmp_path / "run/checkpoint.pth")
    )
    torch.testing.assert_close(after, before - before[-1])
    assert run(data, *start, bare_file(learned, tmp_path), "--overwrite") == 0
    printed = capsys.readouterr().out
    assert converted in printed and "--cls_loss ce is assumed" in printed


def test_a_file_without_flags_but_with_anchors(data, trained, capsys, tmp_path):
    bare = bare_file(trained / "checkpoint.pth", tmp_path)
    assumed = "does not store its classification loss: --cls_loss focal is assumed"
    start = ["--eval", "--resume", bare, "--query_design", "anchor"]
    assert run(data, *start) == 0
    assert assumed in capsys.readouterr().out
    assert run(data, *start, "--cls_loss", "ce") == 0
    assert assumed not in capsys.readouterr().out
    assert run(data, "--finetune", bare, "--epochs", "1") == 0
    printed = capsys.readouterr().out
    assert assumed in printed and "converted" not in printed


def test_a_frozen_detector_keeps_its_loss(data, learned, capsys, tmp_path):
    old = read_checkpoint(learned)
    del old["args"]["cls_loss"]
    torch.save(old, tmp_path / "old.pth")
    flags = ["--frozen_weights", tmp_path / "old.pth", "--masks", "--cls_loss", "focal"]
    assert_one_line(capsys, run(data, *flags), "--cls_loss focal", "was trained with --cls_loss ce")


def test_fine_tuning_keeps_the_design_of_the_file(data, trained, capsys):
    start = trained / "checkpoint.pth"
    assert run(data, "--finetune", start, "--denoising", "1", "--epochs", "1") == 0
    assert "--query_design anchor" in capsys.readouterr().out


def test_masks_and_accumulation_and_mixed_precision(data, tmp_path):
    flags = ["--masks", "--accum_steps", "2", "--amp", "bf16", "--epochs", "1", "--pre_norm"]
    flags.append("--iou_targets")
    assert run(data, *ANCHOR, *flags, "--output_dir", tmp_path) == 0
    (entry,) = read_log(tmp_path)
    assert entry["train_loss_mask"] > 0 and len(entry["test_coco_eval_masks"]) == 12


@pytest.mark.parametrize(("given", "used"), [([], 0.35), (["--panoptic_threshold", "0.01"], 0.01)])
def test_panoptic_maps(data, monkeypatch, given, used):
    """Scores of the focal loss are lower: 0.85 would drop nearly all segments."""
    built, build_network = {}, network.build_network
    monkeypatch.setattr(
        network,
        "build_network",
        lambda *args: built.setdefault("found", build_network(*args)),
    )
    flags = ["--dataset_file", "shapes_panoptic", "--masks", "--epochs", "1"]
    assert run(data, *flags, *ANCHOR, *given) == 0
    assert built["found"][2]["panoptic"].threshold == used


def test_predict_and_export(data, trained, tmp_path):
    checkpoint = str(trained / "checkpoint.pth")
    out = ["--output_dir", str(tmp_path / "seen"), "--threshold", "0.01", "--device", "cpu"]
    assert predict.main([str(data / "val2017"), "--checkpoint", checkpoint, *out]) == 0
    assert list((tmp_path / "seen").rglob("*.json"))
    scripted = str(tmp_path / "model.pt")
    sizes = ["--check_sizes", "70x133", "--check_batches", "1"]
    assert torchscript.run(["--checkpoint", checkpoint, "--output", scripted, *sizes]) == 0
