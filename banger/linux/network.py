"""Looking at the host's network: whether a port can be had, whether a guest's sshd answers."""

from __future__ import annotations

import socket
import time

from banger.errors import HostError
from banger.identity import SshEndpoint
from banger.linux.netns import call_inside

_BANNER_BYTES = 8192
"""RFC 4253 section 4.2: lines may come before the identification, which itself has at most 255 bytes."""


class LinuxNetwork:
    """See `banger.host.NetworkView`."""

    def port_is_free(self, host: str, port: int) -> bool:
        """Whether a TCP listener could bind here now, as far as binding one for a moment tells."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do; without it a port whose last connection lingers in TIME_WAIT looks taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError:
                return False
        return True

    def ssh_banner(self, ssh: SshEndpoint, timeout_s: float) -> str | None:
        """The line beginning `SSH-` that the server there sends; None when none comes in time.

        A user-mode network accepts and then closes while its guest has no sshd yet: that is no answer.
        """
        deadline = time.monotonic() + timeout_s
        try:
            # A socket stays in the namespace it was made in, whoever uses it then.
            with call_inside(ssh.netns, lambda: _connect(ssh, timeout_s)) as connection:
                return _identification(connection, deadline)
        except (OSError, HostError):  # HostError: the namespace went with its last guest
            return None


def _connect(ssh: SshEndpoint, timeout_s: float) -> socket.socket:
    return socket.create_connection((ssh.host, ssh.port), timeout=timeout_s)


def _identification(connection: socket.socket, deadline: float) -> str | None:
    said = b""
    while len(said) < _BANNER_BYTES:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return None
        connection.settimeout(left_s)
        received = connection.recv(1024)
        if not received:
            return None
        said += received
        for line in said.split(b"\n")[:-1]:
            if line.startswith(b"SSH-"):
                return line.rstrip(b"\r").decode("utf-8", "replace")
    return None
