"""Puts a session together from the environment: the one place that picks the real host."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import AbstractContextManager
from pathlib import Path

from banger.cli.loading import load_plugins
from banger.core.handles import HandleCache
from banger.core.home import Home
from banger.core.locks import shared_lock
from banger.core.report import Report
from banger.core.session import Session
from banger.core.state import Store
from banger.linux.host import LinuxHost, ReadOnlyHost

_OF_HOST = Path("/run/banger")


def open_session(report: Report) -> Session:
    """`report` is told what happens."""
    for ending in (signal.SIGTERM, signal.SIGHUP):  # rolls back, as Ctrl-C does
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup(1): what goes on without its terminal
            signal.signal(ending, signal.default_int_handler)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a lock for each VM is an open file
    os.umask(os.umask(0o077) | 0o022)  # what others could write, they could make theirs
    home = Home.from_environment()
    plugins = load_plugins()
    host = LinuxHost(home.cache, lambda name: _shared(home, name))
    store = Store(home.state, home.lock("state"))
    return Session(home, store, plugins, host, ReadOnlyHost(host), HandleCache(host.boot_id), report)


def _shared(home: Home, name: str) -> AbstractContextManager[None]:
    """A lock that the commands of all homes honour: networks are the host's. Who is not root has none of these."""
    if os.geteuid() == 0 and os.access(_OF_HOST.parent, os.W_OK):
        return shared_lock(_OF_HOST / f"{name}.lock")
    return shared_lock(home.lock(name))
