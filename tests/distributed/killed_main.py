"""main.py, but one process is killed in the middle of an epoch, on the first attempt.

``killed_main.py RANK STEP FLAG…``: process RANK ends by SIGKILL once STEP steps are done.
"""

import os
import signal
import sys

import main
import tests.narrow_resnet  # noqa: F401
from tests.cheap_runs import cheap_runs
from training import loop
from util.distributed.processes import get_rank

if __name__ == "__main__":
    rank, step = int(sys.argv[1]), int(sys.argv[2])
    after_step = loop.Run._after_step

    def after_step_or_death(self: loop.Run, *args: object) -> None:
        after_step(self, *args)  # type: ignore[arg-type]
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and get_rank() == rank and self.progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    loop.Run._after_step = after_step_or_death  # type: ignore[method-assign]
    with cheap_runs():
        sys.exit(main.run(sys.argv[3:]))
