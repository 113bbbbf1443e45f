"""A tiny DETR learns four images by heart."""

import argparse

import pytest
import torch

import main
from datasets.coco import CocoDetection, make_coco_transforms
from datasets.loading.loaders import build_val_loader
from datasets.shapes.directory import write_shapes
from engine import evaluate, train_one_epoch
from models import build_model
from tests.narrow_resnet import NARROW
from util.optimizer import build_lr_scheduler, build_optimizer

FLAGS = (
    f"--backbone {NARROW} --backbone_weights none --backbone_norm batch --pre_norm --dropout 0 "
    "--hidden_dim 64 --nheads 4 --enc_layers 1 --dec_layers 2 --dim_feedforward 128 "
    "--num_queries 10 --num_classes 6 --device cpu"
)
EPOCHS, STEPS = 10, 25


@pytest.mark.slow
def test_a_tiny_model_reaches_ap_090_on_four_images(tmp_path):
    write_shapes(tmp_path / "shapes", num_train=1, num_val=4, image_size=96)
    dataset = CocoDetection(
        tmp_path / "shapes/val2017",
        tmp_path / "shapes/annotations/instances_val2017.json",
        make_coco_transforms("val", [96]),
        return_masks=False,
    )
    torch.manual_seed(0)
    parser = argparse.ArgumentParser(parents=[main.get_args_parser()])
    model, criterion, postprocessors = build_model(parser.parse_args(FLAGS.split()))
    optimizer = build_optimizer(model, lr=1e-3, lr_backbone=1e-3, weight_decay=0)
    schedule = build_lr_scheduler(optimizer, "cosine", EPOCHS, lr_drop=1, lr_min=0)
    device = torch.device("cpu")
    loader = build_val_loader(dataset, batch_size=4, num_workers=0, pin_memory=False)
    (batch,) = loader
    for epoch in range(EPOCHS):
        train_one_epoch(model, criterion, [batch] * STEPS, optimizer, device, epoch, max_norm=0.1)
        schedule.step()
    stats, _ = evaluate(model, criterion, postprocessors, loader, dataset.coco, device, "")
    assert stats["coco_eval_bbox"][0] >= 0.9
