"""configs/*.txt: every recipe parses, and the published ones say what was published."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ANCHOR = "detr_r50_50ep_anchor.txt"
PUBLISHED = sorted({path.name for path in CONFIGS.glob("detr_*.txt")} - {ANCHOR})
LR_DROPS = {150: 100, 300: 200, 500: 400}


@pytest.fixture
def parse(monkeypatch):
    """What `main.main` would be called with for given words of a command line."""
    main = importlib.import_module("main")
    calls = []
    monkeypatch.setattr(main, "main", lambda args, *_: calls.append(args))

    def run(*argv: str):
        assert main.run(argv) == 0
        return vars(calls[-1])

    return run


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.txt")), ids=lambda path: path.name)
def test_recipe_parses_to_what_it_says(parse, path):
    plain, parsed = parse(), parse(f"@{path}")
    words = [w for line in path.read_text().splitlines() for w in shlex.split(line, comments=True)]
    flags = [word.removeprefix("--") for word in words if word.startswith("--")]
    assert flags and len(set(flags)) == len(flags)
    assert {name for name in parsed if parsed[name] != plain[name]} <= set(flags)


def test_there_is_a_recipe_for_every_published_model():
    models = ("r50", "r50_dc5", "r101", "r101_dc5")
    wanted = {f"detr_{model}{length}.txt" for model in models for length in ("", "_500ep")}
    assert set(PUBLISHED) == wanted | {"detr_r50_150ep.txt"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipe(parse, name):
    args = parse(f"@{CONFIGS / name}")
    dc5 = "dc5" in name
    epochs = int(re.search(r"_(\d+)ep", name)[1]) if "ep." in name else 300
    assert args["backbone"] == ("resnet101" if "r101" in name else "resnet50")
    assert (args["dilation"], args["batch_size"]) == ((True, 1) if dc5 else (False, 2))
    assert (args["epochs"], args["lr_drop"]) == (epochs, LR_DROPS[epochs])
    assert (args["lr"], args["lr_backbone"], args["weight_decay"]) == (1e-4, 1e-5, 1e-4)
    assert (args["clip_max_norm"], args["dropout"]) == (0.1, 0.1)
    assert args["output_dir"] == "" and args["dataset_file"] == "coco"


def test_recipe_with_anchors(parse):
    """As published for DN-DETR on DAB-DETR with ResNet-50."""
    args = parse(f"@{CONFIGS / ANCHOR}")
    assert (args["query_design"], args["cls_loss"], args["denoising"]) == ("anchor", "focal", 5)
    assert (args["epochs"], args["lr_drop"], args["num_queries"]) == (50, 40, 300)
    assert (args["set_cost_class"], args["cls_loss_coef"], args["dropout"]) == (2, 1, 0)
    assert (args["lr"], args["lr_backbone"], args["weight_decay"]) == (1e-4, 1e-5, 1e-4)
    assert "NOT RUN" in (CONFIGS / ANCHOR).read_text()


def test_fast_shapes_differ_from_shapes_in_the_design_only(parse):
    fast, plain = parse(f"@{CONFIGS / 'shapes_fast.txt'}"), parse(f"@{CONFIGS / 'shapes.txt'}")
    changed = {name for name in plain if plain[name] != fast[name]}
    design = {"query_design", "cls_loss", "iou_targets", "denoising", "set_cost_class"}
    assert changed == {*design, "overlap_penalty", "ema_decay", "output_dir"}
    assert fast["set_cost_class"] == fast["overlap_penalty"] == 4


@pytest.mark.parametrize("name", ["small_data.txt", "small_data_scratch.txt"])
def test_small_data_recipes_can_use_learned_queries(parse, name):
    recipe = f"@{CONFIGS / name}"
    flags = {**parse(recipe)}
    assert (flags["query_design"], flags["cls_loss"], flags["denoising"]) == ("anchor", "focal", 5)
    undo = re.search(r"in the paper:\n# (--.*)", (CONFIGS / name).read_text())[1].split()
    learned = parse(recipe, *undo)
    assert (learned["query_design"], learned["cls_loss"]) == ("learned", "ce")
    assert (learned["iou_targets"], learned["denoising"]) == (False, 0)
    assert (learned["set_cost_class"], learned["overlap_penalty"]) == (1, 0)
    measured = " ".join(undo).replace(" --set_cost_class 1", "")  # the recipe's class cost
    for page in ("docs/finetuning.md", "benchmarks/bccd/README.md"):
        words = (CONFIGS.parent / page).read_text().replace("\\", "").split()
        assert measured in " ".join(words), page


@pytest.mark.parametrize("name", ["instance_r50.txt", "panoptic_r50_masks.txt"])
def test_published_recipe_of_the_mask_head(parse, name):
    args = parse(f"@{CONFIGS / name}", "--frozen_weights", "boxes.pth")
    assert args["masks"] and (args["epochs"], args["lr_drop"]) == (25, 15)
    assert (args["lr"], args["weight_decay"], args["clip_max_norm"]) == (1e-4, 1e-4, 0.1)
    assert args["dataset_file"] == ("coco_panoptic" if "panoptic" in name else "coco")


def test_box_stage_of_panoptic_segmentation_is_that_of_detection(parse):
    stage_one = parse(f"@{CONFIGS / 'panoptic_r50_boxes.txt'}")
    boxes = parse(f"@{CONFIGS / 'detr_r50.txt'}")
    assert {name for name in boxes if boxes[name] != stage_one[name]} == {"dataset_file"}


@pytest.mark.parametrize("data", ["panoptic_r50", "shapes_panoptic"])
def test_both_stages_build_the_same_detector(parse, data):
    boxes = parse(f"@{CONFIGS / f'{data}_boxes.txt'}")
    masks = parse(f"@{CONFIGS / f'{data}_masks.txt'}")
    for name in ("backbone", "dilation", "enc_layers", "dec_layers", "hidden_dim", "num_queries"):
        assert boxes[name] == masks[name]
    for name in ("nheads", "dim_feedforward", "pre_norm", "backbone_norm", "position_embedding"):
        assert boxes[name] == masks[name]
    assert boxes["dataset_file"] == masks["dataset_file"]


def test_a_flag_after_the_file_wins(parse):
    assert parse(f"@{CONFIGS / 'detr_r50.txt'}", "--epochs", "7")["epochs"] == 7


def test_each_recipe_names_its_own_file():
    stages = ["instance_r50.txt", "panoptic_r50_boxes.txt", "panoptic_r50_masks.txt"]
    for name in [*PUBLISHED, *stages]:
        assert f"main.py @configs/{name} " in (CONFIGS / name).read_text()
