"""The streams that a command tells on. What cannot be written is lost and the work goes on; that is told at the end."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any, NoReturn, TextIO, cast

from banger.cli.screen import say

_lost: dict[str, str] = {}
"""By what could not be written, why; of this process."""


class _Lossy:
    """A stream that never fails: work would be left half done because somebody has seen enough, or a disk is full."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        _lost.setdefault(self._name, error.strerror or str(error))
        with suppress(OSError):  # what is still in its buffer would be tried again at the end of the process
            _to_nowhere(self._stream.fileno(), os.O_WRONLY)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lossy(stream: TextIO, name: str) -> TextIO:
    """`stream`, of which what cannot be written is lost; `name` says what that was."""
    return cast("TextIO", _Lossy(stream, name))


def guarded(command: Callable[[], NoReturn]) -> NoReturn:
    """Run it with a stdout and a stderr that never fail; what was lost is an error when it ends."""
    _lost.clear()
    _reopen_closed()
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = lossy(stdout, "stdout"), lossy(stderr, "stderr")
    try:
        command()
    except SystemExit as ended:
        sys.stdout.flush()
        if told := {name: why for name, why in _lost.items() if name != "stderr"}:
            for name, why in told.items():
                say(f"error: cannot write to {name}: {why}", err=True)
            raise SystemExit(ended.code or 1) from None
        raise
    finally:
        sys.stdout, sys.stderr = stdout, stderr


@contextmanager
def only_ours() -> Iterator[TextIO]:
    """What stdout is. Whatever else is printed there, by a plugin or by a program that it runs, goes to stderr."""
    with ExitStack() as stack:
        stdout = sys.stdout
        stdout.flush()
        with suppress(io.UnsupportedOperation):  # a stream of Python's alone
            number = stdout.fileno()
            ours = stack.enter_context(os.fdopen(os.dup(number), "w", encoding="utf-8", buffering=1))
            stdout = lossy(ours, "stdout")
            os.dup2(sys.stderr.fileno(), number)
            stack.callback(os.dup2, stdout.fileno(), number)
        stack.enter_context(redirect_stdout(sys.stderr))
        yield stdout


def _reopen_closed() -> None:
    """A standard stream that is closed (`>&-`) would be the number of the next file that is opened.

    Open for reading, stdout can still not be written to, and that is told.
    """
    modes = {"stdin": (os.O_RDONLY, "r"), "stdout": (os.O_RDONLY, "w"), "stderr": (os.O_WRONLY, "w")}
    for number, (name, (flags, mode)) in enumerate(modes.items()):
        if getattr(sys, name) is None:
            _to_nowhere(number, flags)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


def _to_nowhere(number: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)
