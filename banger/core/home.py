"""Where banger keeps things on this host: one directory, laid out here and nowhere else. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from banger.errors import StateError

RECORD = "record.json"
"""In a VM's directory: what the store says of it."""
_LONGEST_NAME = 250
"""With `.lock` behind it, a file's name has at most 255 bytes (NAME_MAX)."""


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory: `$BANGER_HOME`, else /var/lib/banger for root, else `$XDG_STATE_HOME/banger`."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Home:
        if chosen := environment.get("BANGER_HOME"):
            return cls(Path(chosen).resolve())  # one spelling only: a VMM is found by the path of its socket
        if os.geteuid() == 0:
            return cls(Path("/var/lib/banger"))
        state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
        return cls(Path(state) / "banger")

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def configuration(self) -> Path:
        """Optional; TOML, read by `Configuration`."""
        return self.root / "config.toml"

    @property
    def ssh_key(self) -> Path:
        """The private key that opens every guest; made once."""
        return self.root / "ssh" / "id_ed25519"

    @property
    def cache(self) -> Path:
        """Answers about this host that are worth remembering, such as whether KVM boots."""
        return self.root / "cache"

    @property
    def vms(self) -> Path:
        """The directories of all VMs, each named after its VM's id."""
        return self.root / "vms"

    @property
    def images(self) -> Path:
        """The directories of all images, each named after its digest."""
        return self.root / "images"

    def vm_directory(self, vm_id: str) -> Path:
        return self.vms / vm_id

    def image_directory(self, digest: str) -> Path:
        return self.images / digest

    def lock(self, name: str) -> Path:
        """Raises StateError for a name that would lead out of the directory of locks."""
        if "/" in name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
            raise StateError(f"{name[:80]!r} cannot name a lock", hint="banger validate PLAYBOOK tells of wrong names")
        return self.root / "locks" / f"{name}.lock"
