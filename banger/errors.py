"""The error tree. Every failure a user can meet is one of these; anything else is a bug. Imports nothing of ours.

An error says what happened, why (`message`), and the command or line that mends it (`hint`). `exit_code` is part
of the command line's contract: 2 the playbook is wrong and nothing was touched, 3 this host cannot do it, 1 something
failed while doing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file a person wrote; `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in what the user wrote: where, what, and what would be right."""

    place: Place | None
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text} ({self.hint})" if self.hint else text


class BangerError(Exception):
    """A known failure: one paragraph for the user, and an exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PlaybookError(BangerError):
    """The playbook is wrong; nothing was touched. Carries every problem once, in the order a reader meets them."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda each: each.place or Place("", 0, 0)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(BangerError):
    """The command line asks for something that is not there (an unknown VM, say)."""

    exit_code = 2


class HostError(BangerError):
    """This host lacks something that the chosen way needs; the hint is the command that mends it."""

    exit_code = 3


class CommandError(BangerError):
    """A program we ran failed. The message has the command, its status and the end of what it said."""


class Busy(BangerError):
    """The host says "in use": worth trying again shortly."""


class DiskError(BangerError):
    """A disk image could not be read, made or patched; nothing half-written is left in use."""


class VmmError(BangerError):
    """The virtual machine monitor refused, died, or did not answer in time."""


class StateError(BangerError):
    """banger's own records cannot be read or written."""


class HomeError(StateError):
    """The home cannot be used as it is: a file that all depends on cannot be read, or a lock not be taken."""

    exit_code = 3


class PluginError(BangerError):
    """A plugin raised, or answered with something else than its hook promises. Names the plugin."""
