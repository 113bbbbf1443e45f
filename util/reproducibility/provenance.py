"""Versions of the code and its packages, for logs and checkpoints."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

_PACKAGES = (
    *("torch", "torchvision", "numpy", "scipy", "pillow", "pycocotools"),
    "faster-coco-eval",
)
_ROOT = Path(__file__).resolve().parents[2]


def get_sha() -> str:
    """Commit, status and branch of this checkout.

    Returns:
        ``sha: …, status: …, branch: …``. The status is ``clean`` or ``has uncommited changes``
        (sic, as in the original's logs); untracked files are ignored. ``N/A`` without git.
    """
    sha = _git("rev-parse", "HEAD")
    branch = _git("rev-parse", "--abbrev-ref", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    status = "has uncommited changes" if changes else "clean"
    return f"sha: {sha or 'N/A'}, status: {status}, branch: {branch or 'N/A'}"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, CUDA and packages, and the commit at the time of the first call."""
    return {
        "commit": get_sha(),
        "python": platform.python_version(),
        "cuda": str(torch.version.cuda),
        **{name: _version_of(name) for name in _PACKAGES},
    }


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "N/A"


def _git(*arguments: str) -> str | None:
    """Output of a git command in this checkout; None if it fails."""
    # No optional locks, since several processes may start in one checkout at the same time.
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
