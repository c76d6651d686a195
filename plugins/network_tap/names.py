"""What this kind of network calls its devices: pure functions of the network's name and the VM's id."""

from __future__ import annotations

import hashlib

from banger.identity import mac_address

_NAME_BYTES = 15  # linux/if.h: IFNAMSIZ less its NUL


def bridge_name(network: str) -> str:
    return _device("bgr-", network)


def bridge_mac(network: str) -> str:
    """The bridge has it from the moment it is made, so it is also the mark by which a bridge is known as ours."""
    return mac_address(f"the bridge of {network}")


def tap_name(vm_id: str) -> str:
    return _device("tap-", vm_id)


def _device(prefix: str, name: str) -> str:
    """The name itself where it fits, else its digest."""
    room = _NAME_BYTES - len(prefix)
    return prefix + (name if len(name) <= room else hashlib.sha256(name.encode()).hexdigest()[:room])
