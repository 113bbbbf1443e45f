"""Run the dataset check."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the slow imports below
    end_at_once_on_interrupt("python -m datasets.check")

import sys

from datasets.check.command import run

if __name__ == "__main__":
    sys.exit(run())
