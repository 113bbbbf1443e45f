"""What the documents name exists: tests, files, flags, commands, links and their headings."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import main

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("", "docs/", "docs/*/", "tests/", "examples/", "benchmarks/", "benchmarks/*/")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}*.md"))
# Flags of torchrun, Slurm, Docker, TensorBoard and the programs in benchmarks/.
FOREIGN_FLAGS = {
    *("--kills", "--list", "--rounds", "--steps"),
    *("--cpus-per-task", "--gpus-per-node", "--kill-on-bad-exit", "--ntasks-per-node"),
    *("--partition", "--requeue", "--signal", "--shm-size"),
    *("--local_addr", "--max-restarts", "--nnodes", "--nproc_per_node", "--standalone"),
    "--logdir",  # tensorboard
    *("--rdzv_backend", "--rdzv_conf", "--rdzv_endpoint", "--rdzv_id"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def headings(document: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def claimed_tests(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", text)


@pytest.mark.parametrize("document", ["tests/README.md", "docs/DIFFERENCES.md"])
def test_named_tests_exist(document):
    names = claimed_tests(document)
    assert len(names) >= 40
    for name in names:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert not function or f"def {function}(" in (ROOT / path).read_text(), name


def functions_in(path: Path) -> set[str]:
    """Names of a file's functions, and of its methods as Class.method."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    methods = {f"{c.name}.{m.name}" for c in classes for m in c.body if _is_function(m)}
    return {node.name for node in body if _is_function(node)} | methods


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)


def test_the_tour_names_functions_that_exist():
    text = (ROOT / "docs/code_tour.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w/]+\.py)(?:::([\w.]+))?`", text)
    assert len(names) >= 25
    for path, function in names:
        assert not function or function in functions_in(ROOT / path), f"{path}::{function}"


def test_at_least_forty_faults_are_listed():
    text = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "::test_" in line]
    assert len(rows) >= 40


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_table_has_a_head(document):
    lines = document.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|") and (number == 0 or not lines[number - 1].startswith("|")):
            assert lines[number + 1].startswith("|--"), f"{document.name}:{number + 1}"


@pytest.fixture(scope="module")
def own_flags():
    folders = ("*.py", "training/**/*.py", "datasets/**/*.py", "export/**/*.py", "examples/*.py")
    files = (path for pattern in folders for path in ROOT.glob(pattern))
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return set(re.findall(r'"(--[a-z0-9_]+)"', text)) | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_flags_exist(document, own_flags):
    assert len(own_flags) > 60
    named = flags_in(document.read_text(encoding="utf-8"))
    assert named - own_flags - FOREIGN_FLAGS == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8"))
    for link in links:
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not heading or heading in headings(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_source_files_exist(document):
    text = document.read_text(encoding="utf-8")
    names = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|txt|md|toml))`", text)
    written_by_runs = {"log.txt", "log-before-epoch0100.txt", "config.txt", "config-1.txt"}
    of_users = {f"{name}.txt" for name in ("train", "val", "trainval", "test", "classes", "names")}
    for name in set(names) - written_by_runs - of_users:
        folders = (ROOT, document.parent, ROOT / "configs")
        assert any((folder / name).is_file() for folder in folders), name


def test_every_document_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for path in ROOT.glob("docs/*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def command_lines() -> list[str]:
    """Every ``main.py ...`` of the documents that is given in full, without its comment."""
    lines = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        lines += re.findall(r"^(?:    )?(?:python|torchrun.*?) (main\.py .*)", text, re.MULTILINE)
    return [line for line in lines if "…" not in line]


def test_commands_parse(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = command_lines()
    assert len(lines) >= 12
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        # A run writes the files of flags in outputs/.
        words = [word for word in words if not word.startswith("@outputs/")]
        main.build_parser().parse_args(words)
