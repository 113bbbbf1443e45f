"""configs/*.txt: every recipe parses, and the published ones say what was published."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PUBLISHED = sorted(path.name for path in CONFIGS.glob("detr_*.txt"))
LR_DROPS = {150: 100, 300: 200, 500: 400}


@pytest.fixture
def parse(monkeypatch):
    """What `main.main` would be called with for given words of a command line."""
    main = importlib.import_module("main")
    calls = []
    monkeypatch.setattr(main, "main", calls.append)

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


def test_a_flag_after_the_file_wins(parse):
    assert parse(f"@{CONFIGS / 'detr_r50.txt'}", "--epochs", "7")["epochs"] == 7


def test_each_recipe_names_its_own_file():
    for name in PUBLISHED:
        assert f"main.py @configs/{name} " in (CONFIGS / name).read_text()
