"""Run the dataset check."""

from datasets.check.flags import PROGRAM, build_parser
from util.cli.early_interrupt import end_at_once_on_interrupt

if __name__ == "__main__":  # before the slow imports below
    end_at_once_on_interrupt(PROGRAM)
    build_parser().parse_args()  # --help and wrong flags end here

import sys

from datasets.check.command import run

if __name__ == "__main__":
    sys.exit(run())
