"""The one place that spawns short-lived programs: logged so that it can be pasted, bounded in time, checked.

Programs run with `LC_ALL=C`, because what they say is read here. The long-lived ones are `banger.linux.process`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from banger.errors import CommandError, HostError

_log = logging.getLogger(__name__)

_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Debian leaves these out of an ordinary user's PATH, though mke2fs(8) and its kin need no privilege."""
_TAIL_LINES = 20
_handed_on: ContextVar[tuple[int, ...]] = ContextVar("_handed_on", default=())

PACKAGES = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "debugfs": "e2fsprogs",
    "dpkg-deb": "dpkg",
    "e2fsck": "e2fsprogs",
    "fakeroot": "fakeroot",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "newuidmap": "uidmap",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "resize2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "tune2fs": "e2fsprogs",
    "unshare": "util-linux",
    "zstd": "zstd",
}
"""The Debian package that has a program."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a program said, as bytes, and its exit status (negative: the signal that ended it)."""

    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    returncode: int

    @property
    def output(self) -> str:
        """Both streams as text, for messages; bytes that are no UTF-8 are replaced."""
        return (self.stdout + self.stderr).decode("utf-8", "replace").strip()


def which(program: str) -> Path | None:
    """Where a program is: on PATH, or in a system directory that PATH may lack. None when it is in neither."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_DIRECTORIES))
    found = shutil.which(program, path=path)
    return Path(found) if found else None


def require(program: str) -> Path:
    """Like `which`, but a missing program is a HostError that names the package to install."""
    if found := which(program):
        return found
    package = PACKAGES.get(Path(program).name)
    hint = f"apt install {package}" if package else f"install {program} and put it on PATH"
    raise HostError(f"{program} is not installed on this host", hint=hint)


def run(
    argv: Sequence[str | Path],
    *,
    input: bytes | None = None,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Sequence[int] | None = (0,),
    merge: bool = False,
    inherit: Sequence[int] = (),
) -> Result:
    """Run a program to its end and return what it said.

    `env` is added to our own environment; `accept` are the exit statuses that are no failure (None: all);
    `merge` puts stderr into stdout, in the order it was said; `inherit` are file descriptors of ours that it has, too.
    Without `input`, stdin is /dev/null.
    Raises HostError when the program is missing, CommandError when it fails or takes longer than `timeout_s`
    seconds (it is killed then).
    """
    command = [str(require(str(argv[0]))), *(str(argument) for argument in argv[1:])]
    shown = shlex.join([str(argument) for argument in argv])
    _log.debug("run: %s", shown)
    try:
        done = subprocess.run(
            command,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
            timeout=timeout_s,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            cwd=cwd,
            pass_fds=(*inherit, *_handed_on.get()),
            start_new_session=True,  # Ctrl-C is for us: a tool that is writing a disk is let end
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"`{shown}` did not end within {timeout_s:g} s and was killed") from error
    except OSError as error:
        raise CommandError(f"`{shown}` could not be started: {error}") from error
    result = Result(done.stdout, done.stderr or b"", done.returncode)
    if accept is not None and result.returncode not in accept:
        raise CommandError(f"`{shown}` {_ending(result.returncode)}{_said(result)}")
    return result


@contextlib.contextmanager
def handed_on(descriptor: int) -> Iterator[None]:
    """Each program that is run in this block has this descriptor of ours too, and keeps it when we are killed."""
    token = _handed_on.set((*_handed_on.get(), descriptor))
    try:
        yield
    finally:
        _handed_on.reset(token)


def become(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a program, which then has our terminal, and whose exit status is ours (execv(3))."""
    program = require(argv[0])
    _log.debug("exec: %s", shlex.join(argv))
    os.execv(program, list(argv))


def tail(text: str, lines: int = _TAIL_LINES) -> str:
    """The last lines of what a program said."""
    return "\n".join(text.strip().splitlines()[-lines:])


def _ending(returncode: int) -> str:
    return f"was ended by signal {-returncode}" if returncode < 0 else f"failed with status {returncode}"


def _said(result: Result) -> str:
    text = tail(result.output)
    return f":\n{text}" if text else " and said nothing"
