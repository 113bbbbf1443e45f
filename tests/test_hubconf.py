"""Entry points of torch.hub."""

import argparse
import functools
import hashlib
import http.server
import itertools
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hubconf
from models.detr import PostProcess
from models.panoptic import PostProcessPanoptic
from models.released import zoo
from models.released.zoo import RELEASED_MODELS
from util.errors import UserError

ROOT = Path(hubconf.__file__).parent
ENTRIES = list(RELEASED_MODELS)
RANDOM = ("kaiming_normal_", "kaiming_uniform_", "xavier_uniform_", "uniform_", "normal_")
FILLINGS = itertools.count()  # no two models are the same

# In another folder. First in a process for each folder of sys.argv[2], where its package was
# imported from that folder; then all entries without the packages that inference does not need.
# Random weights would take seconds: sys.argv[3] has the names of what draws them.
LOAD = """
import importlib, os, sys, torch, torchvision  # PyTorch itself asks where onnx is
for name in sys.argv[3].split():
    setattr(torch.nn.init, name, lambda t, *a, **k: t)
for folder in sys.argv[2].split(os.pathsep):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open(f"output{number}.txt", os.O_WRONLY | os.O_CREAT), number)
    sys.path.insert(0, ".")
    importlib.import_module(os.path.basename(folder).split("-")[0])
    model = torch.hub.load(sys.argv[1], "detr_demo", source="local", num_classes=5)
    print(type(model).__name__)
    sys.exit()
MISSING = {"scipy", "pycocotools", "faster_coco_eval", "matplotlib"}
MISSING |= {"safetensors", "transformers", "onnx", "onnxruntime"}
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ImportError(name)
assert not MISSING & set(sys.modules)
sys.meta_path.insert(0, Without())
torchvision.models._api.load_state_dict_from_url = lambda *a, **k: {}
for name in sys.argv[4:]:
    model = torch.hub.load(sys.argv[1], name, source="local", num_classes=5)
    detector = getattr(model, "detr", model)
    head = getattr(detector, "class_embed", None) or detector.linear_class
    print(name, head.out_features)
"""


def write_released_file(folder, state, **extra):
    """A file in the released format, named after its hash."""
    plain = folder / "plain.pth"
    torch.save({"model": state, **extra}, plain)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()[:8]
    return plain.rename(folder / f"detr-test-{digest}.pth")


@pytest.fixture
def table(monkeypatch, tmp_path):
    """Changes an entry of the table to another file; downloads are written to ``tmp_path``.

    The weights of ImageNet cannot be had: nobody may ask for them. Models are not initialized with
    random weights, which takes a second, but with another number for each tensor.
    """

    def fill(tensor, *args, **kwargs):
        return tensor.detach().fill_(next(FILLINGS) / 1000)

    for name in RANDOM:
        monkeypatch.setattr(torch.nn.init, name, fill)

    def refuse(*args, **kwargs):
        raise AssertionError("ImageNet weights were asked for")

    def change(name, file):
        monkeypatch.setitem(RELEASED_MODELS, name, replace(RELEASED_MODELS[name], file=file))

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr(zoo, "BASE_URL", tmp_path.as_uri() + "/")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return change


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Writes a file in the released format for an entry, once; returns weights and path."""
    folder, made = tmp_path_factory.mktemp("released"), {}

    def make(name):
        if name not in made:
            torch.manual_seed(0)
            without = {} if RELEASED_MODELS[name].minimal else {"backbone_weights": "none"}
            state = getattr(hubconf, name)(**without).state_dict()
            args = argparse.Namespace(lr=1e-4, dataset_file=RELEASED_MODELS[name].categories)
            made[name] = state, write_released_file(folder, state, args=args, epoch=499)
        return made[name]

    yield make
    shutil.rmtree(folder)  # pytest would keep these large files for three runs


@pytest.fixture
def serve(table, tmp_path, released):
    """Puts a file in the released format in the place of an entry's; returns its weights."""

    def put(name):
        state, path = released(name)
        os.link(path, tmp_path / path.name)
        table(name, path.name)
        return state

    yield put
    shutil.rmtree(tmp_path)


@pytest.fixture
def loopback(monkeypatch, tmp_path):
    """A web server of this machine that serves ``tmp_path``."""
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def same_weights(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


# ---- torch.hub -----------------------------------------------------------------------------------


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """How torch.hub names a repository on GitHub that it has downloaded: this one."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "someone_detr_main").symlink_to(ROOT)
    return {"github": "someone/detr:main", "skip_validation": True, "trust_repo": True}


def test_the_entries_are_what_torch_hub_lists(cached):
    assert sorted(torch.hub.list(**cached)) == sorted(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_help_says_what_the_table_says(name, cached):
    text = torch.hub.help(model=name, **cached)
    released = RELEASED_MODELS[name]
    for metric, score in (("box AP", released.box_ap), ("PQ", released.pq)):
        assert score is None or f"{metric} {score}" in text
    assert released.title in text and "pretrained: load the released weights" in text
    assert ("one image per GPU" in text) == released.dilation
    assert getattr(hubconf, name).__name__ == name


def write_package(folder, name, kind):
    """Another project's package, a package without __init__.py, or a single file."""
    folder.mkdir()
    if kind == "file":
        (folder / f"{name}.py").touch()
        return f"{name}.py"
    (folder / name).mkdir()
    if kind == "package":
        (folder / name / "__init__.py").touch()
    return f"{name}/__init__.py" if kind == "package" else name


FOREIGN = [("util", "package"), ("models", "folder"), ("util", "file"), ("datasets", "package")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The process that loads all entries; of each foreign package its path and what was printed."""
    root = tmp_path_factory.mktemp("foreign")
    folders = [root / f"{name}-{kind}" for name, kind in FOREIGN]
    places = [write_package(f, *pair) for f, pair in zip(folders, FOREIGN, strict=True)]
    arguments = [str(ROOT), os.pathsep.join(map(str, folders)), " ".join(RANDOM), *ENTRIES]
    command = [sys.executable, "-c", LOAD, *arguments]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return process, {
        pair: (f"{folder}/{place}", *((folder / f"output{n}.txt").read_text() for n in (1, 2)))
        for pair, folder, place in zip(FOREIGN, folders, places, strict=True)
    }


def test_every_entry_loads_from_another_folder_without_training_packages(loaded):
    process, _ = loaded
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [f"{name} 6" for name in ENTRIES]


@pytest.mark.parametrize("pair", FOREIGN[:3], ids="-".join)
def test_a_foreign_package_of_that_name_is_named(pair, loaded):
    place, _, error = loaded[1][pair]
    message = error.splitlines()[-1]
    assert message.startswith("ImportError: the DETR hub entries need the package")
    assert f"{place} has been imported under that name: rename" in message


def test_a_foreign_package_called_datasets_does_no_harm(loaded):
    _, output, error = loaded[1]["datasets", "package"]
    assert output.strip() == "MinimalDETR", error


# ---- released weights ----------------------------------------------------------------------------


def test_released_weights_are_downloaded_checked_and_loaded(serve):
    state = serve("detr_resnet50")
    model, postprocessor = hubconf.detr_resnet50(pretrained=True, return_postprocessor=True)
    assert isinstance(postprocessor, PostProcess)
    assert same_weights(model, state)


def test_the_minimal_model_loads_over_http(serve, loopback, monkeypatch):
    state = serve("detr_demo")
    monkeypatch.setattr(zoo, "BASE_URL", loopback)
    assert same_weights(hubconf.detr_demo(pretrained=True), state)


def test_a_file_that_is_missing_on_the_server_is_one_line(table, loopback, monkeypatch):
    table("detr_demo", "detr-none-0123abcd.pth")
    monkeypatch.setattr(zoo, "BASE_URL", loopback)
    with pytest.raises(UserError, match=r"abcd.pth: cannot be downloaded .*404") as raised:
        hubconf.detr_demo(pretrained=True)
    assert raised.value.one_line().endswith("hub/checkpoints/detr-none-0123abcd.pth")
    raised.value.__cause__.close()  # the socket of the HTTPError


@pytest.mark.parametrize("name", ["detr_resnet50", "detr_demo", "detr_resnet50_panoptic"])
def test_another_number_of_classes_keeps_the_rest_and_says_so(name, serve, capsys):
    state = serve(name)
    model = getattr(hubconf, name)(pretrained=True, num_classes=3)
    heads = [key for key in state if "class" in key]
    own = model.state_dict()
    assert len(heads) == 2 and all(len(own[key]) == 4 for key in heads)
    assert all(torch.equal(own[key], state[key]) for key in own if key not in heads)
    text = capsys.readouterr().out
    assert f"{len(own) - 2} of {len(own)} tensors of the model loaded" in text
    assert all(key in text for key in heads)
    if name != "detr_demo":
        assert all(torch.equal(own[key][-1], state[key][-1]) for key in heads)  # no-object


def test_a_file_whose_hash_is_wrong_is_refused_in_one_line(table, tmp_path):
    (tmp_path / "detr-test-0123abcd.pth").write_bytes(b"other bytes")
    table("detr_resnet50", "detr-test-0123abcd.pth")
    with pytest.raises(UserError, match="does not match the hash in its name") as raised:
        hubconf.detr_resnet50(pretrained=True)
    message = raised.value.one_line()
    assert (tmp_path / "detr-test-0123abcd.pth").as_uri() in message and "0123abcd" in message
    assert not list(tmp_path.rglob("hub/checkpoints/*.pth"))


def test_weights_of_another_model_are_refused(serve, table):
    serve("detr_demo")
    table("detr_resnet50", RELEASED_MODELS["detr_demo"].file)
    with pytest.raises(UserError, match=r"does not match .* give weights of the same architecture"):
        hubconf.detr_resnet50(pretrained=True)


def test_numbers_of_numpy_count():
    model = hubconf.detr_resnet50(num_classes=np.int64(5), backbone_weights="none")
    assert len(model.class_embed.bias) == 6


def test_messages_name_arguments_and_no_flags(tmp_path):
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"^backbone_weights=.*other.pth: ") as error:
        hubconf.detr_resnet50(backbone_weights=str(tmp_path / "other.pth"))
    assert "--backbone_weights" not in str(error.value)


@pytest.mark.parametrize("num_classes", [0, "5", 2.5, None])
def test_a_number_of_classes_that_is_none_is_refused(num_classes):
    with pytest.raises(UserError, match=r"num_classes .* must be a positive integer"):
        hubconf.detr_resnet50(num_classes=num_classes)


def test_a_panoptic_model_comes_with_its_postprocessor(serve):
    state = serve("detr_resnet50_panoptic")
    model, postprocessor = hubconf.detr_resnet50_panoptic(
        pretrained=True, threshold=0.3, return_postprocessor=True
    )
    assert same_weights(model, state)
    assert isinstance(postprocessor, PostProcessPanoptic) and postprocessor.threshold == 0.3
    things = [label for label, is_thing in postprocessor.is_thing_map.items() if is_thing]
    assert things == list(range(91)) and len(postprocessor.is_thing_map) == 250


@pytest.mark.parametrize("name", ["detr_demo", "detr_resnet50", "detr_resnet50_panoptic"])
def test_a_model_prepared_for_inference(name):
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 64, 96)
    options = {"num_classes": 5} if name == "detr_demo" else {"backbone_weights": "none"}
    torch.manual_seed(1)
    prepared = getattr(hubconf, name)(optimize=True, **options)
    torch.manual_seed(1)
    model = getattr(hubconf, name)(**options).eval()
    assert not prepared.training
    with torch.no_grad():
        expected = model(batch)
    for output, value in prepared(batch).items():
        torch.testing.assert_close(value, expected[output], rtol=1e-3, atol=1e-4)
