"""Entry points of torch.hub."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hubconf
from models.detr import PostProcess
from models.panoptic import PostProcessPanoptic
from util.errors import UserError

ROOT = Path(hubconf.__file__).parent
BOX_ENTRIES = ["detr_resnet50", "detr_resnet50_dc5", "detr_resnet101", "detr_resnet101_dc5"]
PANOPTIC_ENTRIES = [
    "detr_resnet50_panoptic",
    "detr_resnet50_dc5_panoptic",
    "detr_resnet101_panoptic",
]
ENTRIES = BOX_ENTRIES + PANOPTIC_ENTRIES

# Runs in another folder, and without the packages that inference does not need.
LOAD_ALL = """
import sys, torch
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("scipy", "pycocotools", "faster_coco_eval"):
            raise ImportError(name)
sys.meta_path.insert(0, Without())
torch.nn.init.kaiming_normal_ = torch.nn.init.xavier_uniform_ = lambda t, *a, **k: t
import torchvision
torchvision.models._api.load_state_dict_from_url = lambda *a, **k: {}
for name in sys.argv[2:]:
    model = torch.hub.load(sys.argv[1], name, source="local", num_classes=5)
    print(name, getattr(model, "detr", model).class_embed.out_features)
"""


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Makes a file in the released format under its hash, served from disk; returns its weights."""
    return lambda name: _serve(name, monkeypatch, tmp_path)


@pytest.fixture
def released(serve):
    """The weights of detr_resnet50 as they are served."""
    return serve("detr_resnet50")


def _serve(name, monkeypatch, tmp_path):
    torch.manual_seed(0)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: {})
    state = getattr(hubconf, name)().state_dict()
    torch.save({"model": state}, tmp_path / "plain.pth")
    digest = hashlib.sha256((tmp_path / "plain.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "plain.pth").rename(tmp_path / f"detr-test-{digest}.pth")
    entry = hubconf._RELEASED[name]._replace(file=f"detr-test-{digest}.pth")
    monkeypatch.setitem(hubconf._RELEASED, name, entry)
    monkeypatch.setattr(hubconf, "_ADDRESS", tmp_path.as_uri() + "/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return state


def test_every_entry_loads_from_another_folder_without_training_packages(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, str(ROOT), *ENTRIES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{name} 6" for name in ENTRIES]


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_have_a_text_for_torch_hub_help(name):
    assert " on COCO val2017" in getattr(hubconf, name).__doc__


def test_released_weights_are_downloaded_checked_and_loaded(released):
    model, postprocessor = hubconf.detr_resnet50(pretrained=True, return_postprocessor=True)
    assert isinstance(postprocessor, PostProcess)
    assert all(torch.equal(value, released[key]) for key, value in model.state_dict().items())


def test_another_number_of_classes_keeps_the_rest(released, capsys):
    model = hubconf.detr_resnet50(pretrained=True, num_classes=3)
    assert model.class_embed.out_features == 4
    assert torch.equal(model.query_embed.weight, released["query_embed.weight"])
    assert "class_embed.weight" in capsys.readouterr().out


def test_a_damaged_download_is_refused(released, monkeypatch, tmp_path):
    entry = hubconf._RELEASED["detr_resnet50"]
    (tmp_path / entry.file).write_bytes(b"other bytes")
    with pytest.raises(UserError, match=entry.file):
        hubconf.detr_resnet50(pretrained=True)
    (tmp_path / entry.file).unlink()
    with pytest.raises(UserError, match=entry.file):
        hubconf.detr_resnet50(pretrained=True)


def test_a_panoptic_model_comes_with_its_postprocessor(serve):
    weights = serve("detr_resnet50_panoptic")
    model, postprocessor = hubconf.detr_resnet50_panoptic(
        pretrained=True, threshold=0.3, return_postprocessor=True
    )
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert isinstance(postprocessor, PostProcessPanoptic) and postprocessor.threshold == 0.3
    things = [label for label, is_thing in postprocessor.is_thing_map.items() if is_thing]
    assert things == list(range(91)) and len(postprocessor.is_thing_map) == 250


def test_a_panoptic_model_with_other_classes_keeps_the_mask_head(serve):
    weights = serve("detr_resnet50_panoptic")
    model = hubconf.detr_resnet50_panoptic(pretrained=True, num_classes=7)
    assert model.detr.class_embed.out_features == 8
    assert torch.equal(model.mask_head.lay1.weight, weights["mask_head.lay1.weight"])
