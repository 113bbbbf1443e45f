"""What users of the original rely on: public names with their signatures, and command-line flags.

The tables are facts about the original codebase. Code may offer more, never less.
"""

import importlib
import inspect

import pytest
import torch

# Module -> name -> parameters. Where a name begins with "_", only the position counts. None: no
# signature worth comparing.
PUBLIC_NAMES: dict[str, dict[str, str | None]] = {
    "models": {"build_model": "args"},
    "models.backbone": {
        "FrozenBatchNorm2d": "_n",
        "BackboneBase": "backbone, train_backbone, num_channels, return_interm_layers",
        "Backbone": "name, train_backbone, return_interm_layers, dilation",
        "Joiner": "backbone, position_embedding",
        "build_backbone": "args",
    },
    "models.detr": {
        "DETR": "backbone, transformer, num_classes, num_queries, aux_loss=False",
        "SetCriterion": "num_classes, matcher, weight_dict, eos_coef, losses",
        "PostProcess": "",
        "MLP": "input_dim, hidden_dim, output_dim, num_layers",
        "build": "args",
    },
    "models.matcher": {
        "HungarianMatcher": "cost_class=1, cost_bbox=1, cost_giou=1",
        "build_matcher": "args",
    },
    "models.position_encoding": {
        "PositionEmbeddingSine": "num_pos_feats=64, temperature=10000, normalize=False, scale=None",
        "PositionEmbeddingLearned": "num_pos_feats=256",
        "build_position_encoding": "args",
    },
    "models.segmentation": {
        "DETRsegm": "detr, freeze_detr=False",
        "MaskHeadSmallConv": "dim, fpn_dims, context_dim",
        "MHAttentionMap": "query_dim, hidden_dim, num_heads, dropout=0.0, bias=True",
        "dice_loss": "inputs, targets, num_boxes",
        "sigmoid_focal_loss": "inputs, targets, num_boxes, alpha=0.25, gamma=2",
        "PostProcessSegm": "threshold=0.5",
        "PostProcessPanoptic": "is_thing_map, threshold=0.85",
    },
    "models.transformer": {
        "Transformer": (
            "d_model=512, nhead=8, num_encoder_layers=6, num_decoder_layers=6,"
            "dim_feedforward=2048, dropout=0.1, activation='relu', normalize_before=False,"
            "return_intermediate_dec=False"
        ),
        "TransformerEncoder": "encoder_layer, num_layers, norm=None",
        "TransformerDecoder": "decoder_layer, num_layers, norm=None, return_intermediate=False",
        "TransformerEncoderLayer": (
            "d_model, nhead, dim_feedforward=2048, dropout=0.1, activation='relu',"
            "normalize_before=False"
        ),
        "TransformerDecoderLayer": (
            "d_model, nhead, dim_feedforward=2048, dropout=0.1, activation='relu',"
            "normalize_before=False"
        ),
        "build_transformer": "args",
    },
    "datasets": {"build_dataset": "image_set, args", "get_coco_api_from_dataset": "dataset"},
    "datasets.coco": {
        "CocoDetection": "img_folder, ann_file, transforms, return_masks",
        "ConvertCocoPolysToMask": "return_masks=False",
        "convert_coco_poly_to_mask": "segmentations, height, width",
        "make_coco_transforms": "image_set",
        "build": "image_set, args",
    },
    "datasets.coco_eval": {
        "CocoEvaluator": "coco_gt, iou_types",
        "convert_to_xywh": "boxes",
        "merge": "img_ids, eval_imgs",
        "create_common_coco_eval": "coco_eval, img_ids, eval_imgs",
        "evaluate": "self",
    },
    "datasets.coco_panoptic": {
        "CocoPanoptic": "img_folder, ann_folder, ann_file, transforms=None, return_masks=True",
        "build": "image_set, args",
    },
    "datasets.panoptic_eval": {
        "PanopticEvaluator": "ann_file, ann_folder, output_dir='panoptic_eval'",
    },
    "datasets.transforms": {
        "crop": "image, target, region",
        "hflip": "image, target",
        "resize": "image, target, size, max_size=None",
        "pad": "image, target, padding",
        "RandomCrop": "size",
        "RandomSizeCrop": "min_size, max_size",
        "CenterCrop": "size",
        "RandomHorizontalFlip": "p=0.5",
        "RandomResize": "sizes, max_size=None",
        "RandomPad": "max_pad",
        "RandomSelect": "transforms1, transforms2, p=0.5",
        "ToTensor": None,
        "RandomErasing": None,
        "Normalize": "mean, std",
        "Compose": "transforms",
    },
    "engine": {
        "train_one_epoch": "model, criterion, data_loader, optimizer, device, epoch, max_norm=0",
        "evaluate": "model, criterion, postprocessors, data_loader, base_ds, device, output_dir",
    },
    "main": {"get_args_parser": "", "main": "args"},
    "hubconf": {
        **dict.fromkeys(
            ("detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"),
            "pretrained=False, num_classes=91, return_postprocessor=False",
        ),
        **dict.fromkeys(
            ("detr_resnet50_panoptic", "detr_resnet50_dc5_panoptic", "detr_resnet101_panoptic"),
            "pretrained=False, num_classes=250, threshold=0.85, return_postprocessor=False",
        ),
    },
    "util.misc": {
        "SmoothedValue": "window_size=20, fmt=None",
        "MetricLogger": "delimiter='\\t'",
        "NestedTensor": "tensors, mask",
        "nested_tensor_from_tensor_list": "tensor_list",
        "collate_fn": "batch",
        "all_gather": "data",
        "reduce_dict": "input_dict, average=True",
        "get_sha": "",
        "setup_for_distributed": "is_master",
        "is_dist_avail_and_initialized": "",
        "get_world_size": "",
        "get_rank": "",
        "is_main_process": "",
        "save_on_master": None,
        "init_distributed_mode": "args",
        "accuracy": "output, target, topk=(1,)",
        "interpolate": ("input, size=None, scale_factor=None, mode='nearest', align_corners=None"),
    },
    "util.box_ops": {
        "box_cxcywh_to_xyxy": "_x",
        "box_xyxy_to_cxcywh": "_x",
        "box_iou": "boxes1, boxes2",
        "generalized_box_iou": "boxes1, boxes2",
        "masks_to_boxes": "masks",
    },
    "util.plot_utils": {
        "plot_logs": (
            "logs, fields=('class_error', 'loss_bbox_unscaled', 'mAP'), ewm_col=0,"
            "log_name='log.txt'"
        ),
        "plot_precision_recall": "files, naming_scheme='iter'",
    },
}
NAMES = [(module, name) for module, names in PUBLIC_NAMES.items() for name in names]

# Methods that scripts and notebooks call by name.
METHODS = {
    "datasets.coco_eval": {
        "CocoEvaluator": ["update", "synchronize_between_processes", "accumulate", "summarize"],
    },
    "datasets.panoptic_eval": {
        "PanopticEvaluator": ["update", "synchronize_between_processes", "summarize"],
    },
    "datasets.coco_panoptic": {"CocoPanoptic": ["get_height_and_width", "__len__"]},
    "util.misc": {
        "SmoothedValue": ["update", "synchronize_between_processes"],
        "MetricLogger": ["update", "add_meter", "log_every", "synchronize_between_processes"],
        "NestedTensor": ["to", "decompose"],
    },
}

# Destination -> flag, type, default. Switches have type bool.
FLAGS = {
    "lr": ("--lr", float, 1e-4),
    "lr_backbone": ("--lr_backbone", float, 1e-5),
    "batch_size": ("--batch_size", int, 2),
    "weight_decay": ("--weight_decay", float, 1e-4),
    "epochs": ("--epochs", int, 300),
    "lr_drop": ("--lr_drop", int, 200),
    "clip_max_norm": ("--clip_max_norm", float, 0.1),
    "frozen_weights": ("--frozen_weights", str, None),
    "backbone": ("--backbone", str, "resnet50"),
    "dilation": ("--dilation", bool, False),
    "position_embedding": ("--position_embedding", str, "sine"),
    "enc_layers": ("--enc_layers", int, 6),
    "dec_layers": ("--dec_layers", int, 6),
    "dim_feedforward": ("--dim_feedforward", int, 2048),
    "hidden_dim": ("--hidden_dim", int, 256),
    "dropout": ("--dropout", float, 0.1),
    "nheads": ("--nheads", int, 8),
    "num_queries": ("--num_queries", int, 100),
    "pre_norm": ("--pre_norm", bool, False),
    "masks": ("--masks", bool, False),
    "aux_loss": ("--no_aux_loss", bool, True),
    "set_cost_class": ("--set_cost_class", float, 1),
    "set_cost_bbox": ("--set_cost_bbox", float, 5),
    "set_cost_giou": ("--set_cost_giou", float, 2),
    "mask_loss_coef": ("--mask_loss_coef", float, 1),
    "dice_loss_coef": ("--dice_loss_coef", float, 1),
    "bbox_loss_coef": ("--bbox_loss_coef", float, 5),
    "giou_loss_coef": ("--giou_loss_coef", float, 2),
    "eos_coef": ("--eos_coef", float, 0.1),
    "dataset_file": ("--dataset_file", str, "coco"),
    "coco_path": ("--coco_path", str, None),
    "coco_panoptic_path": ("--coco_panoptic_path", str, None),
    "remove_difficult": ("--remove_difficult", bool, False),
    "output_dir": ("--output_dir", str, ""),
    "seed": ("--seed", int, 42),
    "resume": ("--resume", str, ""),
    "start_epoch": ("--start_epoch", int, 0),
    "eval": ("--eval", bool, False),
    "num_workers": ("--num_workers", int, 2),
    "world_size": ("--world_size", int, 1),
    "dist_url": ("--dist_url", str, "env://"),
    # The one default that differs on purpose: the original's is "cuda" everywhere.
    "device": ("--device", str, "cuda" if torch.cuda.is_available() else "cpu"),
}


def parameters(spec: str) -> list[inspect.Parameter]:
    """The parameters of ``def f(spec)``."""
    return list(inspect.signature(eval(f"lambda {spec}: None")).parameters.values())


def fits(wanted: inspect.Parameter, offered: inspect.Parameter) -> bool:
    """Whether a call that relies on ``wanted`` works with ``offered``."""
    same_name = wanted.name.startswith("_") or wanted.name == offered.name
    return same_name and (wanted.default is wanted.empty or wanted.default == offered.default)


@pytest.fixture(scope="module")
def actions():
    parser = importlib.import_module("main").get_args_parser()
    return {action.dest: action for action in parser._actions}


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_public_name_with_a_compatible_signature(module, name):
    offered_object = getattr(importlib.import_module(module), name)
    spec = PUBLIC_NAMES[module][name]
    if spec is None:
        return
    wanted = parameters(spec)
    offered = list(inspect.signature(offered_object).parameters.values())
    assert len(offered) >= len(wanted), f"{module}.{name}{inspect.signature(offered_object)}"
    for mine, theirs in zip(offered, wanted, strict=False):
        assert mine.kind is not mine.KEYWORD_ONLY
        assert fits(theirs, mine), f"{module}.{name}: {mine} instead of {theirs}"
    for extra in offered[len(wanted) :]:
        needless = extra.default is not extra.empty or extra.kind in (
            extra.VAR_POSITIONAL,
            extra.VAR_KEYWORD,
        )
        assert needless, f"{module}.{name}: {extra} has no default"


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in METHODS.items() for name in names]
)
def test_methods_that_scripts_call(module, name):
    class_ = getattr(importlib.import_module(module), name)
    assert [m for m in METHODS[module][name] if not callable(getattr(class_, m, None))] == []


def test_hub_dependencies():
    assert {"torch", "torchvision"} <= set(importlib.import_module("hubconf").dependencies)


# ---- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", FLAGS)
def test_flag_keeps_its_name_type_and_default(actions, destination):
    flag, kind, default = FLAGS[destination]
    action = actions[destination]
    assert flag in action.option_strings
    assert action.default == default and not action.required
    if kind is bool:
        assert action.nargs == 0
    else:
        assert (action.type or str) is kind


def test_position_embeddings_to_choose_from(actions):
    assert {"sine", "learned"} <= set(actions["position_embedding"].choices)


def test_an_old_command_line_parses_to_the_same_values(actions):
    parser = importlib.import_module("main").get_args_parser()
    parsed = vars(parser.parse_args([]))
    assert {name: parsed[name] for name in FLAGS} == {n: spec[2] for n, spec in FLAGS.items()}


def test_every_flag_has_a_sentence_of_help(actions):
    poor = [name for name, action in actions.items() if len((action.help or "").split()) < 3]
    assert poor == []


def test_the_parser_can_be_a_parent(actions):
    assert "help" not in actions
