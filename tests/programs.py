"""Python programs for tests, forked from a server that has imported PyTorch and this code.

Importing takes seconds of processor time, more than most programs in tests need for their work.
Tests of the start itself (its imports, Ctrl-C during it, settings of the allocator) start Python.
"""

import atexit
import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import warnings
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from operator import methodcaller
from typing import Any
from unittest import mock

import torch

_PRELOADED = ["pytest", "torchvision", "training.loop", "tests.test_main"]


def forking_context() -> ForkServerContext:
    """Multiprocessing with processes that are forked from the server."""
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


class ForkedProgram(subprocess.Popen):
    """Like `subprocess.Popen` of ``[sys.executable, ...]``, but forked from the server.

    Of Python's options ``-W error``, ``-c`` and ``-m`` are known; of `subprocess.Popen`'s, ``cwd``,
    ``env``, ``stdout``, ``stderr`` and ``start_new_session``. Standard input is empty.
    """

    def _execute_child(self, args: Any, *options: Any) -> None:
        # Positions as in the call in `subprocess.Popen.__init__`.
        (cwd, env), pipes, is_session = options[4:6], options[9:15], options[20]
        python, *words = map(str, args)
        assert python == sys.executable
        streams = [None if number < 0 else _Stream(number) for number in (pipes[3], pipes[5])]
        environment = dict(os.environ if env is None else env)
        given = (words, str(cwd or os.getcwd()), environment, streams, is_session)
        self._process = forking_context().Process(target=_live, args=given)
        try:
            self._process.start()
            self.pid = self._process.pid
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)

    def _internal_poll(self, _deadstate: Any = None) -> int | None:
        self.returncode = self._process.exitcode
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        self._process.join(timeout)
        if self._internal_poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def run_forked(command: list[Any], **options: Any) -> subprocess.CompletedProcess:
    """`subprocess.run` of a `ForkedProgram`."""
    with mock.patch("subprocess.Popen", ForkedProgram):
        return subprocess.run(command, **options)


class _Stream:
    """A file descriptor that is sent to a new process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return methodcaller("detach"), (DupFd(self._number),)


def take_environment(environment: dict[str, str]) -> None:
    """Give a forked process its own environment variables; the server has those of its start."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    multiprocessing.set_start_method(None, force=True)  # data workers are forked as usual


def _live(
    words: list[str],
    folder: str,
    environment: dict[str, str],
    streams: list[int | None],
    is_session: bool,
) -> None:
    """Run a program in this process to its end, including what Python does at exit.

    Args:
        words: the command line after ``python``.
        folder: current directory.
        environment: all environment variables.
        streams: file descriptors of stdout and stderr; None: those of the server.
        is_session: whether the process leads a session of its own.
    """
    if is_session:
        os.setsid()
    os.chdir(folder)
    take_environment(environment)
    for number, (name, stream) in enumerate(zip(("stdout", "stderr"), streams, strict=True), 1):
        if stream is not None:
            os.dup2(stream, number)
            os.close(stream)
            setattr(sys, name, _text_stream(number, getattr(sys, name)))
    try:
        _run(words)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None
    finally:
        atexit._run_exitfuncs()


def _text_stream(number: int, old: Any) -> io.TextIOWrapper:
    """As Python opens stdout or stderr: ``old`` knows whether another file has positions."""
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(
        open(number, "wb", 0 if is_unbuffered else -1, closefd=False),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=number == 2,
        write_through=is_unbuffered,
    )


def _run(words: list[str]) -> None:
    """Run what follows ``python`` on a command line."""
    if words[:2] == ["-W", "error"]:
        warnings.simplefilter("error")
        words = words[2:]
    is_script = words[0] not in ("-c", "-m")
    sys.path.insert(0, os.path.dirname(words[0]) if is_script else os.getcwd())
    if is_script:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    else:
        option, content, *arguments = words
        sys.argv = [option, *arguments]
        if option == "-m":
            runpy.run_module(content, run_name="__main__", alter_sys=True)
        else:
            exec(compile(content, "<string>", "exec"), {"__name__": "__main__"})
