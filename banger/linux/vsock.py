"""Into a guest by its VMM's vsock socket, without any network: vsock(7) as Firecracker has it on the host's side.

The VMM listens on a Unix socket. Who connects says `CONNECT PORT`, the VMM answers `OK …` when somebody in the guest
listens on that port and closes the connection when nobody does; after the answer it is a plain byte stream
(Firecracker's docs/vsock.md).

Also a program, a ProxyCommand for ssh(1): `python -I -S vsock.py SOCKET PORT` connects, hands the connection to ssh
through its stdout (ProxyUseFdpass) and ends, so that nothing stands between ssh and the guest. So this file imports
nothing but Python's own library.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SSH_PORT = 22
CONNECT_S = 10.0
_LINE_BYTES = 256


def connect(uds: Path, port: int, timeout_s: float) -> socket.socket:
    """A connection to this port of the guest whose VMM listens on `uds`, without a time-out of its own.

    Raises TimeoutError when the VMM does not answer in time, ConnectionError when nobody in the guest listens there or
    the answer is none, and other OSErrors when nobody listens on the host.
    """
    deadline = time.monotonic() + timeout_s
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        with reachable(uds) as there:
            connection.connect(there)
        connection.sendall(f"CONNECT {port}\n".encode())
        answer = _line(connection, deadline)
        if not answer.startswith(b"OK "):
            raise ConnectionError(f"the guest has nobody listening on its vsock port {port} (answer: {answer!r})")
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def reachable(uds: Path) -> Iterator[str]:
    """A path to connect to instead of `uds`, good for the block. Raises OSError for what is no socket.

    `uds` may be a symbolic link of ours to a place below it. There a jailed VMM does as it pleases: a link of its own
    could lead to any socket of the host, so from there on none is followed.
    """
    below = Path(uds.name)
    with contextlib.suppress(OSError):  # it is no symbolic link
        below = Path(os.path.relpath(uds.readlink(), uds.parent))
    descriptor = os.open(uds.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        for name in below.parts:
            above = descriptor
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            os.close(above)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(uds))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def vsock_banner(uds: Path, timeout_s: float, port: int = SSH_PORT) -> str | None:
    """The identification line of the guest's ssh server (RFC 4253 section 4.2); None when none comes in time."""
    deadline = time.monotonic() + timeout_s
    try:
        with connect(uds, port, timeout_s) as connection:
            line = _line(connection, deadline)
    except OSError:
        return None
    return line.rstrip(b"\r\n").decode("utf-8", "replace") if line.startswith(b"SSH-") else None


def proxy_command(uds: Path, port: int = SSH_PORT) -> str:
    """The value of ssh's ProxyCommand; to be used with `ProxyUseFdpass=yes` (ssh_config(5))."""
    command = shlex.join([sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(uds), str(port)])
    return command.replace("%", "%%")


def _line(connection: socket.socket, deadline: float) -> bytes:
    """One line, byte by byte: what comes after it is not ours. What came before the other side closed, if it did."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left_s)
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def main(uds: str, port: str) -> int:
    """Connect and hand the connection over; 255 as ssh has it when that fails."""
    try:
        connection = connect(Path(uds), int(port), CONNECT_S)
        with socket.socket(fileno=os.dup(1)) as ssh:
            socket.send_fds(ssh, [b"\0"], [connection.fileno()])
    except OSError as error:
        sys.stderr.write(f"{uds}: {error}\n")
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
