"""Argument parser with flag groups, @files and one-line errors; exit status of a command."""

import argparse
import codecs
import errno
import io
import math
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from util.cli.closed_pipes import ends_without_reader
from util.cli.early_interrupt import raise_on_interrupt
from util.cli.signals import StopRequested
from util.cli.suggestions import DASHES, explain_argument_file, explain_unknown
from util.distributed.process_output import let_main_process_report
from util.errors import ConnectionLostError, DivergenceError, UserError
from util.options import NEW_FLAG_DEFAULTS

# No space, over quota, input/output error, read-only file system, no permission.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES})


def positive_int(text: str) -> int:
    """Type of a flag: a positive integer."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def accepts_value(action: argparse.Action, value: Any) -> bool:
    """Whether a value is valid for a flag of a parser."""
    if action.nargs == 0:
        return isinstance(value, bool)
    if value is None:
        return action.default is None
    if action.nargs == "+" or isinstance(action.nargs, int):
        count = len(value) if isinstance(value, list | tuple) else 0
        fits = count > 0 if action.nargs == "+" else count == action.nargs
        return fits and all(_is_one(action, v) for v in value)
    return _is_one(action, value)


def _is_one(action: argparse.Action, value: Any) -> bool:
    if action.choices is not None and value not in action.choices:
        return False
    if action.type is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (action.type or str)


def fraction(text: str) -> float:
    """Type of a flag: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        percent = f"; for {value:g} % use {value / 100:g}" if 1 < value <= 100 else ""
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1{percent}")
    return value


class FlagGroup:
    """A titled group of flags in ``--help``, with the defaults of `util.options`."""

    def __init__(self, parser: argparse.ArgumentParser, title: str):
        self._group = parser.add_argument_group(title)

    def add(self, flag: str, help: str, **options: Any) -> None:
        """Add a flag with a value; its help shows the default, if there is one."""
        options.setdefault("default", NEW_FLAG_DEFAULTS.get(flag.removeprefix("--")))
        if options["default"] not in (None, ""):
            help += " (default: %(default)s)"
        self._group.add_argument(flag, help=help, **options)

    def add_switch(self, flag: str, help: str, off: str = "", **options: Any) -> None:
        """Add a flag without a value, off by default; ``off`` is the flag that undoes it, if any.

        ``off`` undoes a switch that was restored from a checkpoint. It is a separate action, added
        first, so that lookups by name return the action of ``flag``.
        """
        options = {"action": "store_true", **options}
        if off:
            undo = "store_false" if options["action"] == "store_true" else "store_true"
            options = {"dest": flag.removeprefix("--"), "default": False, **options}
            hidden = {**options, "action": undo, "help": argparse.SUPPRESS}
            self._group.add_argument(off, **hidden)
            help += f" (opposite: {off})"
        self._group.add_argument(flag, help=help, **options)


class ArgumentParser(argparse.ArgumentParser):
    """ArgumentParser with shell-like ``@file`` arguments (comments allowed) and one-line errors."""

    def parse_args(  # type: ignore[override]
        self, argv: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse a command line; see `argparse.ArgumentParser.parse_args`."""
        for argument in sys.argv[1:] if argv is None else argv:
            if self.fromfile_prefix_chars and argument.startswith(self.fromfile_prefix_chars):
                problem = explain_argument_file(argument[1:])
                if problem is not None:
                    self.error(problem)
        parsed, unknown = self.parse_known_args(argv, namespace)
        if unknown:
            self.error(self._explain_unknown(unknown))
        return parsed

    def print_help(self, file: Any = None) -> None:
        """Print the help; see `argparse.ArgumentParser.print_help`."""
        _print_any_character()
        super().print_help(file)

    def _explain_unknown(self, arguments: Sequence[str]) -> str:
        flags = [name for action in self._actions for name in action.option_strings]
        # The values of an unknown flag are unknown arguments too: report only the flag.
        unknown = [argument for argument in arguments if argument.startswith(DASHES)] or arguments
        reads_files = self.fromfile_prefix_chars is not None
        return "; ".join(explain_unknown(argument, flags, reads_files) for argument in unknown)

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Split a line of an argument file."""
        try:
            return shlex.split(arg_line, comments=True)
        except ValueError as err:
            self.error(f"line {arg_line!r} of an argument file: {err}")

    def given_flags(self, argv: Sequence[str] | None = None) -> set[str]:
        """Names of the flags given on a command line."""
        default = object()
        names = [action.dest for action in self._actions]
        parsed = self.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, default)))
        return {name for name, value in vars(parsed).items() if value is not default}

    def refuse_overridden(self, argv: Sequence[str] | None = None) -> None:
        """End with an error if an ``@file`` overrides flags given before it.

        Args:
            argv: a valid command line.
        """
        words = list(sys.argv[1:] if argv is None else argv)
        prefix = self.fromfile_prefix_chars or ""
        files = [number for number, word in enumerate(words) if word[:1] and word[0] in prefix]
        if not files:
            return
        last = files[-1]
        before = [word for number, word in enumerate(words[:last]) if number not in files]
        earlier, final = vars(self.parse_args(before)), vars(self.parse_args(words))
        once = self.given_flags(before) - self.given_flags(words[last + 1 :])
        overridden = sorted(name for name in once if earlier[name] != final[name])
        flags_of: dict[str, list[str]] = {}  # by the file that overrides them
        for name in overridden:
            flags_of.setdefault(words[self._last_change(words, files, name)], []).append(name)
        if flags_of:
            sentences = (
                f"{' and '.join(f'--{name}' for name in names)}: overridden by {file}, which comes "
                "later"
                for file, names in flags_of.items()
            )
            self.error(f"{'; '.join(sentences)}; give flags after the file")

    def _last_change(self, words: Sequence[str], files: Sequence[int], name: str) -> int:
        """Index in ``words`` of the last ``@file`` that changes the flag ``name``."""
        for number in reversed(files):
            before, after = (vars(self.parse_args(words[:end])) for end in (number, number + 1))
            if before[name] != after[name]:
                return number
        return files[-1]

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the GPU or of the machine ran out. PyTorch need not be imported."""
    is_on_gpu = type(error).__name__ == "OutOfMemoryError"
    return is_on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _print_any_character() -> None:
    """Make stdout escape characters that its encoding lacks, as stderr does, instead of failing.

    Otherwise the class names and file names of the user would end a run where the locale is not
    UTF-8.
    """
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):
        return
    is_utf8 = codecs.lookup(out.encoding).name == "utf-8"  # with surrogateescape it has all bytes
    if out.errors == "strict" or (out.errors == "surrogateescape" and not is_utf8):
        out.reconfigure(errors="backslashreplace")


def run_command(name: str, command: Callable[[], None], save_memory: str = "") -> int:
    """Run a command and return its exit status.

    Args:
        name: name of the command, for messages.
        save_memory: what to do if memory runs out; empty: the exception is raised.

    Returns:
        0: success. 1: training has diverged, or another process died or hangs. 2: user error, or a
        file cannot be written. 130, 143, 138, 129: stopped by Ctrl-C, SIGTERM, SIGUSR1, SIGHUP.
        141: the reader of the output has ended (``| head``). For each status except 0 and 141, one
        line is printed to stderr. Other exceptions are raised.
    """
    try:
        _print_any_character()
        raise_on_interrupt()
        command()
        print(end="", flush=True)
        return 0
    except UserError as err:
        message, status = f"error: {err.one_line()}", 2
        let_main_process_report()
    except OSError as err:
        if isinstance(err, BrokenPipeError) and ends_without_reader():
            return 128 + signal.SIGPIPE
        if err.errno not in _DISK_ERRORS:
            raise
        file = err.filename or "a file"
        message = f"error: {file} cannot be written ({err.strerror}), an existing file is unchanged"
        message, status = message + "; check free space and permissions, or use another path", 2
    except DivergenceError as err:
        message, status = (
            f"training stopped: {err}; see docs/reliability.md#non-finite-losses-and-gradients",
            1,
        )
    except ConnectionLostError as err:
        message, status = f"error: {err}", 1
    except StopRequested as err:
        message, status = str(err), err.exit_status
    except KeyboardInterrupt:
        message, status = "interrupted; files are complete or unchanged", 130
    except (RuntimeError, MemoryError) as err:
        if not (save_memory and _is_out_of_memory(err)):
            raise
        first_line = (str(err) or type(err).__name__).splitlines()[0]
        message, status = f"error: out of memory ({first_line}); {save_memory}", 2
    print(f"{name}: {message}", file=sys.stderr)
    return status
