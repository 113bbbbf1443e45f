"""The tests of Hugging Face's models once more, with transformers 4 from a folder of its own.

`make slow` installs it into ``.venv/transformers4``; ``TRANSFORMERS4`` names another folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("TRANSFORMERS4", Path(sys.prefix) / "transformers4"))
VERSION = "import transformers; print(transformers.__version__)"
TESTS = "gives_our_outputs or save_again or there_and_back or processor"
HERE = Path(__file__).parent


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FOLDER.is_dir(), reason="transformers 4 is not installed: make slow")
@pytest.mark.parametrize(
    ("file", "flags"),
    [
        pytest.param(
            "test_huggingface.py", ["-m", "not slow", "-k", TESTS], marks=pytest.mark.slow
        ),
        pytest.param("test_seven_models.py", [], marks=pytest.mark.full),
    ],
)
def test_transformers_4_loads_what_we_write_and_the_other_way(file, flags):
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "HF_HUB_OFFLINE": "1"}

    def run(*argv: str) -> str:
        command = [sys.executable, *argv]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return done.stdout

    assert run("-c", VERSION).startswith("4.")
    quiet = ("-q", "-W", "ignore", "-p", "no:xdist", "-p", "no:cacheprovider")
    out = run("-m", "pytest", *quiet, *flags, str(HERE / file))
    assert " passed" in out and "skipped" not in out
