"""util/reproducibility/provenance.py: a clean checkout, a changed one, and no checkout."""

import subprocess

import pytest

from util.reproducibility import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A fresh repository of one commit that `get_sha` takes for ours."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "file").write_text("one")
    git("init", "--quiet", "--initial-branch=trunk")
    git("add", "file")
    git("commit", "--quiet", "--message=first")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    return tmp_path, git("rev-parse", "HEAD")


def test_clean_checkout(checkout):
    folder, commit = checkout
    (folder / "untracked").write_text("does not count")
    assert provenance.get_sha() == f"sha: {commit}, status: clean, branch: trunk"


def test_changed_checkout(checkout):
    folder, commit = checkout
    (folder / "file").write_text("two")
    assert provenance.get_sha() == f"sha: {commit}, status: has uncommited changes, branch: trunk"


def test_no_checkout_and_nothing_on_stderr(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.get_sha() == "sha: N/A, status: clean, branch: N/A"
    assert capfd.readouterr().err == ""


def test_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.get_sha() == "sha: N/A, status: clean, branch: N/A"
