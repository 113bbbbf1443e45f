"""A pseudo-terminal for tests: what a program writes to it, and what a person sees there."""

import contextlib
import fcntl
import os
import re
import struct
import termios
import threading


class Terminal:
    """A pseudo-terminal: inside its ``with`` block stdout and stderr of this process.

    Attributes:
        stream: text stream that is a terminal.
    """

    def __init__(self, columns=100):
        self._reading_end, writing_end = os.openpty()
        self._writing_end = writing_end
        self.resize(columns)
        self.stream = os.fdopen(writing_end, "w", encoding="utf-8", buffering=1)
        self._written = b""
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def __enter__(self):
        self._redirections = contextlib.ExitStack()
        self._redirections.enter_context(contextlib.redirect_stdout(self.stream))
        self._redirections.enter_context(contextlib.redirect_stderr(self.stream))
        return self

    def __exit__(self, *error):
        self._redirections.close()

    def resize(self, columns):
        self.columns = columns
        fcntl.ioctl(self._writing_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def _drain(self):
        try:
            while part := os.read(self._reading_end, 65536):
                self._written += part
        except OSError:  # the other end is closed
            pass

    def text(self):
        """Everything written. The terminal is closed."""
        self.stream.close()
        self._thread.join(10)
        os.close(self._reading_end)
        return self._written.decode()


def drawn_lines(text):
    """Every state of every line, as drawn between carriage returns and newlines."""
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def screen(text, columns=10_000):
    """The lines that a person sees at the end, also above the visible part.

    Args:
        text: written to the terminal.
        columns: longer lines continue in the next line of the screen.
    """
    rows, row, column = [""], 0, 0
    for character in re.sub(r"\x1b\[K", "\x1b", text):
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        elif character == "\x1b":  # erase to the end of the line
            rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row][:column]
        else:
            if column == columns:
                row, column = row + 1, 0
            while row >= len(rows):
                rows.append("")
            rows[row] = rows[row].ljust(column)[:column] + character + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows]
