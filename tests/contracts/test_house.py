"""Rules about the whole source: who imports whom, who sees the flags, which versions are tested."""

import ast
import doctest
import functools
import importlib
import re
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# Whose subject is the flags themselves.
FLAG_FILES = (
    *("util/options.py", "training/flags/checks.py", "training/flags/data_checks.py"),
    "training/flags/saved.py",
)
MOST_FILES_IN_A_FOLDER = 17
MOST_LINES_IN_A_FILE, MOST_LINES_IN_A_FUNCTION = 350, 60
# All else is on top.
LAYERS = {"util": 0, "models": 1, "datasets": 1, "engine": 2, "training": 3}
TOP = 4


def source_files() -> list[Path]:
    packages = [path.parent for path in ROOT.glob("[a-z]*/__init__.py")]
    files = [*ROOT.glob("*.py"), *(path for folder in packages for path in folder.rglob("*.py"))]
    return sorted(path for path in files if path.relative_to(ROOT).parts[0] != "tests")


SOURCES = {path.relative_to(ROOT).as_posix(): path for path in source_files()}


def room_of(dotted_or_path: str) -> str:
    return re.split(r"[./]", dotted_or_path)[0]


ROOMS = {room_of(name) for name in SOURCES}


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            rooms.add(room_of(node.module))
    return rooms


def may_import(importer: str, imported: str) -> bool:
    if importer == imported or imported not in ROOMS:
        return True
    above = LAYERS.get(importer, TOP), LAYERS.get(imported, TOP)
    return above[0] > above[1] or above == (TOP, TOP)


def test_the_rooms_are_found():
    assert {"util/misc.py", "models/detr.py", "datasets/coco.py", "engine.py"} <= SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_imports_point_one_way(name):
    wrong = [room for room in imported_rooms(SOURCES[name]) if not may_import(room_of(name), room)]
    assert not wrong, f"{name} imports {wrong}, against main -> engine -> models, datasets -> util"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda p: p.name)
def test_benchmarks_do_not_import_tests(path):
    assert "tests" not in imported_rooms(path)


def test_the_rule_about_imports_can_be_broken():
    assert may_import("engine", "models") and may_import("datasets", "numpy")
    broken = [
        ("util", "models"),
        ("models", "datasets"),
        ("datasets", "engine"),
        ("engine", "main"),
        ("training", "prediction"),
    ]
    assert not any(may_import(*pair) for pair in broken)


@pytest.mark.parametrize(
    "name", [name for name in SOURCES if room_of(name) in LAYERS and name not in FLAG_FILES]
)
def test_only_builders_see_the_flags(name):
    for node in nodes_of(SOURCES[name]):
        if isinstance(node, ast.FunctionDef) and any(arg.arg == "args" for arg in node.args.args):
            # Underscore: the helper of a builder in the same file.
            allowed = re.match(r"_|build|(init_distributed_mode|connected)$", node.name)
            assert allowed, f"{name}:{node.lineno}: {node.name} takes the argparse namespace"


def test_rooms_can_be_seen_whole():
    files = Counter(path.parent for path in SOURCES.values() if path.name != "__init__.py")
    assert {f.name: n for f, n in files.items() if n > MOST_FILES_IN_A_FOLDER} == {}
    lengths = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_IN_A_FILE} == {}


@pytest.mark.parametrize("name", SOURCES)
def test_functions_can_be_seen_whole(name):
    functions = [node for node in nodes_of(SOURCES[name]) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert max(lengths.values(), default=0) <= MOST_LINES_IN_A_FUNCTION, lengths


@pytest.mark.parametrize("name", SOURCES)
def test_objects_keep_their_class(name):
    nodes = nodes_of(SOURCES[name])
    stored = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    assigned = [node.lineno for node in stored if node.attr == "__class__"]
    assert not assigned, f"{name}: assignment to __class__ in lines {assigned}"


@pytest.mark.parametrize("name", SOURCES)
def test_public_names_have_docstrings(name):
    nodes = nodes_of(SOURCES[name])
    definitions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    public = [
        node
        for node in definitions
        if not node.name.startswith("_")
        and "overload" not in [ast.unparse(decorator) for decorator in node.decorator_list]
    ]
    assert [node.name for node in public if ast.get_docstring(node) is None] == []


@pytest.mark.parametrize("name", [n for n, path in SOURCES.items() if ">>>" in path.read_text()])
def test_examples_in_docstrings_hold(name):
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def requirements_in(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-r")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_tested_version_of_every_requirement_is_in_its_range(name):
    tested = {
        r.name.lower().replace("_", "-"): r.specifier for r in requirements_in("constraints.txt")
    }
    for requirement in requirements_in(name):
        pinned = str(tested[requirement.name.lower()]).removeprefix("==")
        assert pinned in requirement.specifier, f"{requirement} against {pinned}"
        assert metadata.version(requirement.name) in requirement.specifier
