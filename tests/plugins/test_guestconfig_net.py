"""The guest's network bootstrap: the files, and the script run for real in a network namespace of its own."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import banger_guestconfig_net as plugin
import pytest

from banger.guestconfig import GuestConfig
from banger.linux.run import which
from banger.types import HostKey, Nic, SshEndpoint, Vm
from tests.capabilities import programs, require

NIC = Nic("lan", "user", "52:54:00:00:00:01", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 2222))
VM = Vm(
    *(Path("/vms/id1"), "id1", "web-1", "debian", 1, 2**29, 2**32, None, "overlay", "ext4", "qemu", NIC, ()),
    host_key=HostKey("private", "public"),
)
SCRIPT = Path(plugin.__file__).with_name("network-up.sh")
# A namespace of its own has its own /sys/class/net only once sysfs is mounted anew in it.
UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-euc"]
PREPARE = "mount -t sysfs sysfs /sys; ip link add card0 type veth peer name card1\n"


@functools.cache
def _namespaces() -> str | None:
    if reason := programs("unshare", "ip"):
        return reason
    done = subprocess.run([*UNSHARE, PREPARE], capture_output=True, text=True, check=False)
    return f"needs network namespaces and veth pairs: {done.stderr.strip()}" if done.returncode else None


@pytest.fixture
def namespaces() -> None:
    require(_namespaces())


needs_namespaces = pytest.mark.usefixtures("namespaces")


def files() -> dict[str, tuple[str, int]]:
    builder = GuestConfig()
    plugin.contribute_guest_config(builder, VM)
    return {file.path: (file.content.decode(), file.mode) for file in builder.files()}


def run_inside(commands: str, configuration: Path, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    """Runs commands where `card0` is the first card and `card1` its other end; `$UP` brings the network up."""
    environment = os.environ | {"NETWORK_TRIES": "0", "UP": f"sh {script} {configuration}"}
    return subprocess.run(
        [*UNSHARE, PREPARE + commands], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "network.conf"
    path.write_text(files()[plugin.CONFIGURATION][0])
    return path


def test_network_files_are_where_the_guest_looks() -> None:  # seed S9, S10
    found = files()
    assert found["/etc/banger/network.conf"] == ("GUEST_ADDRESS=10.0.2.15/24\nGATEWAY=10.0.2.2\nDNS=10.0.2.3\n", 0o644)
    assert found["/usr/local/lib/banger/network-up"] == (SCRIPT.read_text(), 0o755)
    assert found["/etc/systemd/system/sysinit.target.d/10-banger-network.conf"][1] == 0o644
    assert len(found) == 4


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
def test_network_script_is_good_in_any_shell(shell: str) -> None:  # seed S10
    require(programs(shell))
    command = [shell, "sh", "-n"] if shell == "busybox" else [shell, "-n"]
    subprocess.run([*command, str(SCRIPT)], check=True)


def test_network_unit_is_one_systemd_takes(tmp_path: Path) -> None:
    require(programs("systemd-analyze"))
    unit = tmp_path / "banger-network.service"
    unit.write_text(plugin.SERVICE.replace(plugin.SCRIPT, "/bin/true"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert "banger-network" not in checked.stderr and checked.returncode == 0, checked.stderr


@needs_namespaces
def test_network_comes_up_and_stays_the_same_when_run_again(configuration: Path) -> None:  # seed S10
    look = "ip -o -4 addr show dev card0; ip route; ip -o link show card0\n"
    ran = run_inside(f"$UP; {look} echo ---; $UP; {look}", configuration)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.split("---\n")
    assert first == second
    assert "10.0.2.15/24" in first and "default via 10.0.2.2 dev card0" in first and ",UP" in first


@needs_namespaces
def test_network_gateway_outside_the_subnet_is_reached_all_the_same(configuration: Path) -> None:
    configuration.write_text("GUEST_ADDRESS=10.9.0.5/32\nGATEWAY=10.8.0.1\nDNS=10.8.0.1\n")
    ran = run_inside("$UP; ip route", configuration)
    assert ran.returncode == 0 and "default via 10.8.0.1 dev card0 onlink" in ran.stdout, ran.stderr


@needs_namespaces
@pytest.mark.parametrize("tool", ["busybox", "ifconfig"])
def test_network_comes_up_without_iproute2(configuration: Path, tmp_path: Path, tool: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    needed = ["sh", "cat", "grep", "sleep", *(["busybox"] if tool == "busybox" else ["ifconfig", "route"])]
    require(programs(*needed))
    for name in needed:
        program = which(name)
        assert program is not None
        (tools / name).symlink_to(program)
    script = tmp_path / "network-up"
    lines = SCRIPT.read_text().splitlines(keepends=True)
    script.write_text("".join(f"PATH={tools}\n" if line.startswith("PATH=") else line for line in lines))
    ran = run_inside("$UP; $UP; ip -o -4 addr show dev card0; ip route", configuration, script)
    assert ran.returncode == 0, ran.stderr
    assert "10.0.2.15/24" in ran.stdout and "default via 10.0.2.2 dev card0" in ran.stdout


@needs_namespaces
def test_network_without_any_card_fails_and_says_so(configuration: Path) -> None:
    ran = run_inside("ip link del card0; $UP", configuration)
    assert ran.returncode == 1 and "no network card could not be brought up" in ran.stderr


def test_network_configuration_without_an_address_fails_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "network.conf").write_text("GATEWAY=10.0.2.2\n")
    command = ["sh", str(SCRIPT), str(tmp_path / "network.conf")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "no GUEST_ADDRESS" in ran.stderr
