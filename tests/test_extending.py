"""The examples of docs/extending.md, and what else plugs in as in the original."""

import math
import re
import sys
import types
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import datasets
import engine
import main
from datasets.evaluation.batch_results import panoptic_maps
from models.backbone import Joiner
from models.criterion import SetCriterion
from models.detr import DETR
from models.matcher import HungarianMatcher
from models.position_encoding import PositionEmbeddingSine
from models.segmentation import DETRsegm
from models.transformer import Transformer
from tests.cheap_runs import with_pictures
from tests.models import small_models
from tests.models.test_criterion import NUM_CLASSES, layered
from tests.models.test_matcher import WEIGHTS, pairs
from tests.test_engine import CPU, batch
from util.box_ops import box_cxcywh_to_xyxy
from util.nested_tensor import NestedTensor

DOCUMENT = Path(main.__file__).parent / "docs/extending.md"
CODE = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
TERMS = ["labels", "boxes"]


@pytest.fixture(scope="module")
def document():
    """Names that the code of the document has defined, after all of it has run."""
    torch.manual_seed(0)
    names = types.SimpleNamespace(__name__="extending")
    for number, block in enumerate(CODE):
        exec(compile(block, f"{DOCUMENT.name}, example {number + 1}", "exec"), vars(names))
    return names


def test_the_rooms_that_the_document_names_exist():
    assert len(CODE) >= 8
    text = DOCUMENT.read_text(encoding="utf-8")
    paths = re.findall(r"`([\w/]+\.py)`", text)
    assert len(paths) >= 10
    assert [path for path in paths if not (DOCUMENT.parents[1] / path).is_file()] == []


def test_examples_are_short():
    assert max(block.count("\n") for block in CODE) <= 30
    assert all(len(line) <= 100 for block in CODE for line in block.splitlines())


def test_training_and_evaluation_of_the_document(document):
    assert set(document.stats) >= {"loss", "loss_ce", "class_error", "coco_eval_bbox"}
    assert len(document.stats["coco_eval_bbox"]) == 12


# ---- criterion and matcher


def test_focal_loss(document):
    outputs, targets, leaves = layered(3, 5, [3, 0, 1], 2)
    matcher = HungarianMatcher(*WEIGHTS)
    criterion = document.MyFocalCriterion(NUM_CLASSES, matcher, {}, 0.1, TERMS).double()
    losses = criterion(outputs, targets)
    plain = SetCriterion(NUM_CLASSES, matcher, {}, 0.1, TERMS).double()(outputs, targets)
    assert list(losses) == list(plain)
    for name, value in plain.items():
        if name not in ("loss_ce", "loss_ce_0"):
            assert torch.allclose(losses[name], value, rtol=1e-6), name
    for layer, suffix in ((outputs, ""), (outputs["aux_outputs"][0], "_0")):
        p = layer["pred_logits"].sigmoid()
        expected = 0.75 * p**2 * -(1 - p).log()
        for image, (queries, objects) in enumerate(matcher(layer, targets)):
            for query, label in zip(queries, targets[image]["labels"][objects], strict=True):
                of_object = p[image, query, label]
                expected[image, query, label] = 0.25 * (1 - of_object) ** 2 * -of_object.log()
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(expected.sum().item() / 4)
    assert torch.autograd.grad(losses["loss_ce"], leaves, allow_unused=True)[2] is not None


def test_the_matcher_with_our_cost_gives_our_numbers(document):
    class Softmax(document.MyFocalMatcher):
        def class_cost(self, logits):
            return -logits.softmax(-1)

    outputs, targets, _ = layered(3, 5, [3, 0, 1, 9], 3)
    ours, other = HungarianMatcher(*WEIGHTS), Softmax(*WEIGHTS)
    assert pairs(ours(outputs, targets)) == pairs(other(outputs, targets))
    expected = SetCriterion(NUM_CLASSES, ours, {}, 0.1, TERMS).double()(outputs, targets)
    losses = SetCriterion(NUM_CLASSES, other, {}, 0.1, TERMS).double()(outputs, targets)
    assert list(losses) == list(expected)
    assert all(torch.allclose(losses[k], v, rtol=1e-6, atol=1e-6) for k, v in expected.items())
    focal = document.MyFocalMatcher(*WEIGHTS)
    certain = {"pred_logits": torch.full((1, 3, 4), -6.0), "pred_boxes": torch.rand(1, 3, 4)}
    certain["pred_logits"][0, 2, 1] = 6
    target = [{"labels": torch.tensor([1]), "boxes": torch.rand(1, 4)}]
    focal.cost_bbox = focal.cost_giou = 0
    assert pairs(focal(certain, target)) == [[(2, 0)]]


def small_detr(document, kind, **options):
    torch.manual_seed(0)
    transformer = Transformer(32, 4, 1, 2, 32, 0.0, return_intermediate_dec=True)
    return kind(document.backbone, transformer, 4, 6, aux_loss=True, **options)


def test_loss_on_another_output(document):
    model = small_detr(document, document.DETRWithIoU)
    samples, targets = batch(0, (2, 1), size=64)
    outputs = model(samples)
    matcher = HungarianMatcher(*WEIGHTS)
    losses = document.IoUCriterion(4, matcher, {}, 0.1, [*TERMS, "iou"])(outputs, targets)
    assert "loss_iou_0" not in losses and "loss_ce_0" in losses
    errors = []
    for image, (queries, objects) in enumerate(matcher(outputs, targets)):
        for query, number in zip(queries, objects, strict=True):
            box = box_cxcywh_to_xyxy(outputs["pred_boxes"][image, query])
            target = box_cxcywh_to_xyxy(targets[image]["boxes"][number])
            iou = torchvision.ops.box_iou(box[None], target[None])[0, 0]
            errors.append((outputs["pred_iou"][image, query] - iou).abs())
    assert losses["loss_iou"].item() == pytest.approx(sum(errors).item() / 3, rel=1e-5)
    losses["loss_iou"].backward()
    assert model.iou_embed.weight.grad is not None
    assert model.bbox_embed.layers[2].weight.grad is None or not (
        model.bbox_embed.layers[2].weight.grad.any()
    )


# ---- model


def test_boxes_relative_to_anchors(document):
    model = small_detr(document, document.MyAnchorDETR)
    nn.init.zeros_(model.bbox_embed.mlp.layers[2].weight)
    nn.init.zeros_(model.bbox_embed.mlp.layers[2].bias)
    outputs = model([torch.rand(3, 64, 64)])
    anchors = model.query_embed.anchors
    for layer in (outputs, *outputs["aux_outputs"]):
        assert torch.allclose(layer["pred_boxes"][0, :, :2], anchors.sigmoid())
        assert torch.allclose(layer["pred_boxes"][0, :, 2:], torch.tensor(0.5))
    assert sum(p is anchors for p in model.parameters()) == 1


def test_features_of_a_backbone_of_timm(document):
    features, positions = document.backbone.eval()(
        NestedTensor(torch.rand(1, 3, 64, 96), torch.arange(96).expand(1, 64, 96) >= 64)
    )
    assert features[-1].tensors.shape == (1, document.backbone.num_channels, 2, 3)
    assert features[-1].mask.tolist() == [[[False, False, True]] * 2]
    assert positions[-1].shape == (1, 32, 2, 3)


class FourStages(nn.Module):
    """A backbone of timm with all stages, for masks."""

    def __init__(self, name):
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(-4, -3, -2, -1))
        self.stage_channels = self.body.feature_info.channels()
        self.num_channels = self.stage_channels[-1]

    def forward(self, tensor_list):
        features = self.body(tensor_list.tensors)
        masks = [tensor_list.mask[:, :: 2**k, :: 2**k] for k in (2, 3, 4, 5)]
        return {
            str(number): NestedTensor(feature, mask)
            for number, (feature, mask) in enumerate(zip(features, masks, strict=True))
        }


def test_masks_with_a_backbone_and_a_transformer_of_ones_own(document):
    backbone = Joiner(FourStages("mobilenetv3_small_050"), PositionEmbeddingSine(16))
    transformer = document.DecoderOnly(32, 4, 1)
    model = DETRsegm(DETR(backbone, transformer, num_classes=5, num_queries=4))
    sizes = [(64, 64), (64, 96)]
    targets = small_models.targets_for(sizes, [2, 1], torch.float32)
    terms = ["labels", "boxes", "masks"]
    losses = SetCriterion(5, HungarianMatcher(*WEIGHTS), {}, 0.1, terms)(
        model(small_models.images(*sizes)), targets
    )
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert model.mask_head.lay1.weight.grad.any()


class FourMaps(nn.Module):
    """Says nothing of its channels, which are those of ResNet-50."""

    num_channels = 2048


def test_channels_of_a_backbone_that_does_not_name_them():
    joiner = Joiner(FourMaps(), PositionEmbeddingSine(16))
    model = DETRsegm(DETR(joiner, Transformer(32, 4, 1, 1, 32), 5, 4))
    adapters = [model.mask_head.adapter1, model.mask_head.adapter2, model.mask_head.adapter3]
    assert [adapter.in_channels for adapter in adapters] == [1024, 512, 256]


@pytest.mark.parametrize("more", [(), ("a third output",)])
def test_a_transformer_may_return_more(document, more):
    class Longer(document.DecoderOnly):
        def forward(self, *args):
            return (*super().forward(*args), *more)

    model = DETR(document.backbone, Longer(32, 4, 1), 4, 6).eval()
    assert model([torch.rand(3, 64, 64)])["pred_boxes"].shape == (1, 6, 4)


# ---- engine


def test_losses_without_classes_train(document):
    model = small_detr(document, DETR)
    weights = {"loss_bbox": 1.0, "loss_giou": 1.0}
    criterion = SetCriterion(4, HungarianMatcher(*WEIGHTS), weights, 0.1, ["boxes"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    stats = engine.train_one_epoch(model, criterion, [batch(0, size=64)], optimizer, CPU, 0)
    assert stats["loss"] == pytest.approx(stats["loss_bbox"] + stats["loss_giou"])
    assert math.isnan(stats["class_error"])


def test_a_criterion_that_is_no_set_criterion_trains(document):
    class Mean(nn.Module):
        weight_dict = {"loss_mean": 2.0}  # noqa: RUF012

        def forward(self, outputs, targets):
            return {"loss_mean": outputs["pred_boxes"].mean()}

    model = small_detr(document, DETR)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    stats = engine.train_one_epoch(model, Mean(), [batch(0, size=64)], optimizer, CPU, 0)
    assert stats["loss"] == pytest.approx(2 * stats["loss_mean_unscaled"])


def test_a_panoptic_post_processor_of_the_original_is_called_with_its_arguments():
    class Recording(nn.Module):
        def forward(self, outputs, processed_sizes, target_sizes=None):
            self.arguments = outputs, processed_sizes.tolist(), target_sizes.tolist()
            return [{"png_string": b"", "segments_info": []}]

    postprocessor = Recording()
    target = {"image_id": 7, "size": torch.tensor([3, 4]), "orig_size": torch.tensor([6, 8])}
    maps = panoptic_maps(postprocessor, "outputs", [target], (5, 5))
    assert postprocessor.arguments == ("outputs", [[3, 4]], [[6, 8]])
    assert maps[0]["image_id"] == 7


# ---- datasets

FLAGS = (
    "--backbone resnet18 --backbone_weights none --hidden_dim 32 --nheads 4 --enc_layers 1 "
    "--dec_layers 1 --num_queries 4 --dim_feedforward 32 --num_workers 0 --batch_size 4 "
    "--device cpu --epochs 1 --dataset_file mine"
)
SMALL = FLAGS.split()


@pytest.fixture
def plug_in(monkeypatch):
    """Makes a module of ``build`` the one of ``--dataset_file mine``."""

    def add(build):
        module = types.ModuleType("my_data")
        module.build = build
        monkeypatch.setitem(sys.modules, "my_data", module)
        monkeypatch.setitem(datasets._BUILDERS, "mine", "my_data")

    return add


def test_main_trains_on_the_dataset_of_the_document(document, plug_in, tmp_path):
    plug_in(document.build)
    assert main.run([*SMALL, "--output_dir", str(tmp_path)]) == 0
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert checkpoint["categories"] == {1: "square"}
    assert checkpoint["model"]["class_embed.weight"].shape[0] == 3
    assert main.run([*SMALL, "--eval", "--resume", str(tmp_path / "checkpoint.pth")]) == 0


def test_main_trains_on_a_dataset_of_torchvision(plug_in, tmp_path):
    from datasets.coco import ConvertCocoPolysToMask, make_coco_transforms
    from datasets.shapes.directory import write_shapes

    write_shapes(tmp_path / "data", num_train=4, num_val=4, image_size=64)

    class Original(torchvision.datasets.CocoDetection):
        """Written for the original codebase."""

        def __init__(self, image_set):
            annotations = tmp_path / f"data/annotations/instances_{image_set}2017.json"
            super().__init__(tmp_path / f"data/{image_set}2017", annotations)
            self.prepare = ConvertCocoPolysToMask()
            self._transforms = make_coco_transforms(image_set, [64], 64)

        def __getitem__(self, index):
            image, annotations = super().__getitem__(index)
            target = {"image_id": self.ids[index], "annotations": annotations}
            return self._transforms(*self.prepare(image, target))

        def summary(self):
            return "not the numbers of a `ListedImages`"

    plug_in(lambda image_set, args: Original(image_set))
    with with_pictures():
        assert main.run([*SMALL, "--output_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/detections.png").is_file()
    checkpoint = torch.load(tmp_path / "run/checkpoint.pth", weights_only=True)
    assert checkpoint["data"] == {"training": None, "validation": None}


def test_a_dataset_without_ground_truth_is_refused_in_words(plug_in, capsys):
    plug_in(lambda image_set, args: [])
    assert main.run(SMALL) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--dataset_file mine" in line and "`coco`" in line and "my_data" in line
