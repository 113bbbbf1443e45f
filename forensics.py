"""Replay a non-finite training step: ``python forensics.py OUT/bad_step.pth``."""

from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the slow imports below
    end_at_once_on_interrupt("forensics.py")

import sys

from training.nonfinite import run

if __name__ == "__main__":
    sys.exit(run())
