"""Run the command."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the slow imports below
    end_at_once_on_interrupt("python -m export.huggingface")

import sys

from export.huggingface.command import run

if __name__ == "__main__":
    sys.exit(run())
