"""A program whose output is read while it runs: its stdout as a stream, each line of its stderr as it comes."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from banger.errors import CommandError
from banger.linux.run import require, tail

__all__ = ["reading"]

_log = logging.getLogger(__name__)
_CLEANUP_S = 30.0
_KEPT_LINES = 200


@contextlib.contextmanager
def reading(
    argv: Sequence[str], *, stdin: IO[bytes] | None = None, on_line: Callable[[str], None] | None = None
) -> Iterator[IO[bytes]]:
    """Run a program while the block reads its stdout; `on_line` is told each line of its stderr.

    `stdin`: a file of ours that it reads; None: /dev/null.

    Leaving the block waits for the program's end and raises CommandError when it failed. An error in the block ends
    the program (SIGTERM, and time to clean up), unless the program's own failure is the better explanation.
    Raises HostError when the program is missing.
    """
    command = [str(require(argv[0])), *argv[1:]]
    shown = shlex.join(argv)
    _log.debug("run: %s |", shown)
    said: list[str] = []
    refusals: list[Exception] = []
    environment = {**os.environ, "LC_ALL": "C"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C is for us: it is told to end, and has the time to clean up
    ) as process:
        assert process.stdout is not None and process.stderr is not None  # both are pipes
        listener = threading.Thread(target=_listen, args=(process, said, refusals, on_line), daemon=True)
        listener.start()
        try:
            yield process.stdout
            while process.stdout.read(1 << 20):
                pass  # the padding after what was of interest; without a reader the program would fail
        except Exception as error:
            status = _end(process, error)
            if refusals:
                raise refusals[0] from error
            if status <= 0:
                raise
            listener.join(_CLEANUP_S)
            raise _failure(shown, process.returncode, said) from error
        except BaseException:
            _end(process, None)
            raise
        process.wait()
        listener.join(_CLEANUP_S)
    if refusals:
        raise refusals[0]
    if process.returncode != 0:
        raise _failure(shown, process.returncode, said)


def _listen(
    process: subprocess.Popen[bytes],
    said: list[str],
    refusals: list[Exception],
    on_line: Callable[[str], None] | None,
) -> None:
    """To the end, whatever `on_line` does: without a reader the program would hang. What it raises ends the program."""
    assert process.stderr is not None
    for raw in process.stderr:
        line = raw.decode("utf-8", "replace").rstrip()
        said.append(line)
        del said[:-_KEPT_LINES]
        if on_line is not None and not refusals:
            try:
                on_line(line)
            except Exception as error:  # noqa: BLE001  # raised again by whoever reads
                refusals.append(error)
                process.terminate()


def _end(process: subprocess.Popen[bytes], error: Exception | None) -> int:
    """Make sure that it is gone; its exit status, negative when it had to be ended.

    Output that broke off may be the program's own failure, so it is given a moment to say so.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1.0 if error is not None else 0.0)
    process.terminate()
    assert process.stdout is not None
    process.stdout.close()
    try:
        process.wait(_CLEANUP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return -1


def _failure(shown: str, returncode: int, said: Sequence[str]) -> CommandError:
    return CommandError(f"`{shown}` failed with status {returncode}:\n{tail(chr(10).join(said))}")
