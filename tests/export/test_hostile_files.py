"""Files with entries of any kind give a model or one line, never a traceback or much memory.

``FUZZ_EXAMPLES=2000 python -m pytest tests/export/test_hostile_files.py`` tries that many inputs
in every test, others in every run.
"""

import io
import json
import os
import resource
import struct
import zipfile
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.architecture import FLAG_NAMES
from export.command import metadata_of
from export.huggingface.config import read_config
from export.huggingface.folder import read_folder, read_preprocessor, write_folder
from export.source import from_file
from export.weights import read_weights, write_weights
from tests.export.small_files import NARROW_BOXES, NARROW_MASKS, build, source
from tests.narrow_resnet import NARROW
from util.errors import UserError
from util.files.safetensors_file import safetensors_bytes

FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
MOST_MEMORY = 300  # MiB more than before the tests


def examples(number):
    """Settings for so many inputs, or more if the environment asks for more."""
    return settings(
        max_examples=max(number, FUZZ_EXAMPLES), deadline=None, derandomize=not FUZZ_EXAMPLES
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
ANY = JSON | st.binary(max_size=4) | st.sampled_from([torch.ones(()), torch.ones(2), (1,), {1: 2}])
TENSORS = st.sampled_from(
    [
        torch.ones(()),
        torch.ones(0),
        torch.ones(3, 2),
        torch.ones(2, 2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        torch.ones(100_000),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.float8_e5m2),
        torch.ones(2, device="meta"),
    ]
)
FLAGS = (
    *FLAG_NAMES,
    *("scales", "max_size", "image_mean", "image_std", "dataset_file", "panoptic_threshold"),
)
KNOWN_BACKBONE = {"backbone": NARROW}  # recognising it by its shapes takes a second
STATE = build(NARROW_MASKS).state_dict()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "file"


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """All inputs together must not raise the peak of the resident memory by much."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MOST_MEMORY * 1024, f"{grown / 1024:.0f} MiB"


def accepted(function, *args):
    """The result, or None after an error in one line."""
    try:
        return function(*args)
    except UserError as error:
        assert "\n" not in error.one_line()
        return None


def load(path, args=()):
    """Load a model as exporters do."""
    known = {} if "backbone" in args else KNOWN_BACKBONE
    metadata_of(from_file(str(path), known))


@examples(15)
@given(
    args=ANY | st.dictionaries(st.sampled_from(FLAGS), ANY),
    categories=ANY | st.dictionaries(st.integers(-1, 8), ANY),
    is_thing=ANY | st.dictionaries(st.integers(-1, 8), ANY),
    epoch=ANY,
    thresholds=ANY | st.fixed_dictionaries({"best_f1": ANY}),
    category_ids=ANY | st.lists(st.integers() | st.text(max_size=3), min_size=7, max_size=7),
    suffix=st.sampled_from([".pth", ".safetensors"]),
)
def test_entries_of_a_checkpoint(path, suffix, args, **entries):
    torch.save({"model": STATE, "args": args, **entries}, f"{path}.pth")
    accepted(load, f"{path}.pth", args if isinstance(args, dict) else ())
    checkpoint = accepted(read_weights, f"{path}.pth")
    if checkpoint is not None:
        accepted(write_weights, f"{path}-2{suffix}", checkpoint)


@examples(25)
@given(key=st.sampled_from([*STATE, "more", 1, None, (1, 2)]), tensor=TENSORS)
def test_tensors_of_a_checkpoint(path, key, tensor):
    torch.save({"model": {**STATE, key: tensor}}, f"{path}.pth")
    accepted(from_file, f"{path}.pth", KNOWN_BACKBONE)


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BF16", "F8_E4M3", "no type"]),
        "shape": st.lists(st.integers(-1, 2**62), max_size=3),
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2),
    }
)


@examples(100)
@given(
    header=JSON
    | st.dictionaries(st.sampled_from(["a", "class_embed.bias", "__metadata__"]), JSON | ENTRY),
    length=st.integers(0, 2**64 - 1) | st.none(),
)
def test_headers_of_safetensors(path, header, length):
    text = json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (file := path.with_suffix(".safetensors")).write_bytes(size + text + bytes(64))
    accepted(load, file)


@examples(25)
@given(
    metadata=st.dictionaries(
        st.sampled_from(["args", "categories", "is_thing", "category_ids", "thresholds", "epoch"]),
        JSON.map(json.dumps) | st.text(max_size=5),
    )
)
def test_metadata_of_safetensors(path, metadata):
    file = path.with_suffix(".safetensors")
    file.write_bytes(safetensors_bytes(STATE, metadata))
    accepted(load, file)


@pytest.fixture(scope="module")
def small_files():
    """The bytes of small checkpoints by suffix."""
    content = {"model": {"w": torch.ones(3, 2)}, "args": {"lr": 1.0}, "epoch": 3}
    torch.save(content, file := io.BytesIO())
    metadata = {"args": '{"lr": 1}', "epoch": "3"}
    return {
        ".pth": file.getvalue(),
        ".safetensors": safetensors_bytes(content["model"], metadata),
    }


@examples(200)
@given(
    suffix=st.sampled_from([".pth", ".safetensors"]),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    length=st.floats(0, 1) | st.just(1.0),
)
def test_damaged_bytes(path, small_files, suffix, changes, length):
    damaged = bytearray(small_files[suffix])
    for position, value in changes:
        damaged[int(position * len(damaged))] = value
    (file := path.with_suffix(suffix)).write_bytes(damaged[: int(length * len(damaged))])
    accepted(read_weights, str(file))


@examples(50)
@given(text=st.text(max_size=60) | JSON.map(json.dumps))
def test_folders_of_hugging_face(path, text):
    (folder := path.with_name("folder")).mkdir(exist_ok=True)
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(text, encoding="utf-8")
    accepted(read_folder, folder)


@pytest.fixture(scope="module")
def folder(path):
    """A folder of Hugging Face with a small model."""
    (folder := path.with_name("small")).mkdir()
    write_folder(source(NARROW_BOXES), folder)
    return folder


@examples(10)
@given(data=st.data())
def test_entries_of_folders_of_hugging_face(folder, data):
    """One entry of either file is of any kind."""
    name = data.draw(st.sampled_from(["config.json", "preprocessor_config.json"]))
    text = (folder / name).read_text()
    content = json.loads(text)
    content[data.draw(st.sampled_from(sorted(content)))] = data.draw(JSON)
    (folder / name).write_text(json.dumps(content))
    try:
        accepted(read_folder, folder)
    finally:
        (folder / name).write_text(text)


KNOWN = ("backbone_config", "backbone_kwargs", "id2label", "encoder_attention_heads", "backbone")


@examples(100)
@given(config=st.dictionaries(st.sampled_from([*KNOWN, "use_timm_backbone", "dilation"]), JSON))
def test_configurations_of_hugging_face(config):
    accepted(read_config, {"model_type": "detr", **config}, "config.json")


@examples(100)
@given(
    config=st.dictionaries(
        st.sampled_from(["size", "max_size", "image_mean", "do_normalize", "resample"]), JSON
    )
)
def test_image_processors_of_hugging_face(config):
    accepted(read_preprocessor, config, "preprocessor_config.json")


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path, monkeypatch):
    torch.save({"model": {"w": torch.zeros(250_000)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 10_000
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for name in (tmp_path / "bomb.pth", (tmp_path / "bomb.pth").as_uri()):
        with pytest.raises(UserError, match=r"bomb.pth: has compressed entries"):
            read_weights(name)
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_no_memory_is_allocated_for_shapes_of_no_model(tmp_path):
    """Two vectors of 100,000 numbers would make a matrix of 40 GB."""
    wide = {"class_embed.bias": torch.ones(100_000), "input_proj.bias": torch.ones(100_000)}
    torch.save({"model": {**build_boxes(), **wide}}, tmp_path / "f.pth")
    with pytest.raises(UserError, match="does not match the model"):
        from_file(str(tmp_path / "f.pth"), {"nheads": 8})


def build_boxes():
    return {k.removeprefix("detr."): v for k, v in STATE.items() if k.startswith("detr.")}


def test_an_image_that_would_fill_the_memory(tmp_path, capsys):
    client = pytest.importorskip("examples.onnx_client", reason="onnxruntime is not installed")
    from PIL import Image

    Image.new("1", (8, 8)).save(tmp_path / "bomb.png")
    content = bytearray((tmp_path / "bomb.png").read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)  # width and height in its header
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(client.MistakeError, match=r"bomb.png: cannot be read as an image"):
        client.read_image(str(tmp_path / "bomb.png"))
