"""The running VMs as Ansible's dynamic inventories have it: hosts with the way into each, and groups. Pure.

The shapes are those of "Inventory script conventions" in Ansible's developer guide. ssh is given the very options of
`banger vm ssh`, so a guest's host key is known beforehand here too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from banger.core.access import ssh_command
from banger.core.state import VmRecord


def inventory(guests: Sequence[tuple[VmRecord, str]], ssh_key: Path) -> dict[str, Any]:
    """What `--list` answers for these VMs, each with the ProxyCommand into it; empty where none is needed."""
    groups: dict[str, list[str]] = {}
    for record, _ in guests:
        for group in groups_of(record):
            groups.setdefault(group, []).append(record.name)
    return {
        "_meta": {"hostvars": {record.name: host_variables(record, ssh_key, proxy) for record, proxy in guests}},
        "all": {"children": ["ungrouped", *sorted(groups)]},
        **{name: {"hosts": hosts} for name, hosts in sorted(groups.items())},
    }


def groups_of(record: VmRecord) -> list[str]:
    """`image_…`, `network_…`, and `tag_…` for each tag; what Ansible does not allow in a group's name becomes `_`."""
    names = [f"image_{record.image}", f"network_{record.nic.network}", *(f"tag_{tag}" for tag in record.tags)]
    return list(dict.fromkeys(re.sub(r"\W", "_", name) for name in names))


def host_variables(record: VmRecord, ssh_key: Path, proxy: str) -> dict[str, Any]:
    """What `--host` answers, and how Ansible's ssh connection gets in."""
    program_and_options = ssh_command(ssh_key, record, (), proxy=proxy)[:-3]  # the port and the host follow them
    return {
        "ansible_host": record.nic.ssh.host,
        "ansible_port": record.nic.ssh.port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(ssh_key),
        "ansible_ssh_common_args": shlex.join(program_and_options[1:]),
        # Ansible names the socket of a shared connection after address and port, and guests in two network namespaces
        # may have the same ones.
        "ansible_control_path": f"%(directory)s/banger-{record.id}",
    }
