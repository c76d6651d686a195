"""The durable store: whole or not at all, shared by processes, and free of anything transient."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from banger.core.state import Store, VmRecord, VmRuntime
from banger.errors import Busy, StateError
from banger.types import Nic, SshEndpoint

RUNTIME = VmRuntime(
    "running", "10.0.2.15", "/h/api.sock", "/h/v.sock", 7, "/h/c.log", "/h/m.json", "web.banger", "/h", "/h/r", "/h/w"
)
NIC = Nic("user", "user", "52:54:00:00:00:01", "10.0.2.15/24", "10.0.2.2", "10.0.2.3", SshEndpoint("127.0.0.1", 22200))


def record(name: str) -> VmRecord:
    """With a card of its own."""
    nic = replace(NIC, ssh=SshEndpoint("127.0.0.1", 1024 + crc32(name.encode()) % 60_000))
    sizes: dict[str, Any] = {"vcpus": 1, "memory_bytes": 2**29, "root_disk_bytes": 2**32, "work_disk_bytes": None}
    ways: dict[str, Any] = {"storage": "overlay", "workdisk": "ext4", "vmm": "qemu"}
    return VmRecord(name, name, "debian", "d1", nic=nic, network_options={}, runtime=RUNTIME, **sizes, **ways)


def store(directory: Path) -> Store:
    return Store(directory / "state.json", directory / "locks" / "state.lock")


def test_transaction_keeps_what_was_put(tmp_path: Path) -> None:
    with store(tmp_path).transaction() as records:
        records.put(record("web"))
    assert store(tmp_path).snapshot().vm("web") == record("web")
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_transaction_puts_one_record_per_id(tmp_path: Path) -> None:
    for state in ("running", "stopped"):
        with store(tmp_path).transaction() as records:
            records.put(record("web").with_runtime(state=state))
    (only,) = store(tmp_path).snapshot().vms()
    assert only.runtime.state == "stopped"


def test_card_that_another_vm_was_given_meanwhile_is_refused(tmp_path: Path) -> None:
    one, other = record("one"), replace(record("other"), nic=record("one").nic)
    with store(tmp_path).transaction() as records:
        records.put(one)
    words = "was given to one while it was being chosen for other"
    with pytest.raises(Busy, match=words), store(tmp_path).transaction() as records:
        records.put(other)
    with pytest.raises(Busy), store(tmp_path).transaction() as records:
        records.put(record("third"), replace(record("fourth"), nic=record("third").nic))
    with store(tmp_path).transaction() as records:  # they change places
        records.put(replace(one, nic=record("two").nic), other)
    assert [each.name for each in store(tmp_path).snapshot().vms()] == ["one", "other"]


def test_cards_that_are_alike_already_keep_nobody_from_writing(tmp_path: Path) -> None:
    with store(tmp_path).transaction() as records:
        records.put(record("one"), record("other"))
    text = (tmp_path / "state.json").read_text()
    one, other = (str(record(name).nic.ssh.port) for name in ("one", "other"))
    (tmp_path / "state.json").write_text(text.replace(one, other))
    with store(tmp_path).transaction() as records:
        records.put(*(each.with_runtime(state="stopped") for each in records.vms()))


def test_transaction_that_raises_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store(tmp_path).transaction() as records:
        records.put(record("web"))
        raise RuntimeError
    assert not (tmp_path / "state.json").exists()


def test_transaction_without_a_change_writes_nothing(tmp_path: Path) -> None:
    with store(tmp_path).transaction() as records:
        records.put(record("web"))
    before = (tmp_path / "state.json").stat().st_ino
    with store(tmp_path).transaction() as records:
        records.put(record("web"))
    assert (tmp_path / "state.json").stat().st_ino == before


PUT_MANY = """
import sys, pathlib
from tests.unit.test_state import record, store
for number in range(25):
    with store(pathlib.Path(sys.argv[1])).transaction() as records:
        records.put(record(f"vm-{sys.argv[2]}-{number}"))
"""


def test_transactions_of_four_processes_lose_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", PUT_MANY, str(tmp_path), str(who)], cwd=root) for who in range(4)
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0, 0]
    assert len(store(tmp_path).snapshot().vms()) == 100


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\x00\xff", b'{"schema": 99}'])
def test_snapshot_of_a_bad_file_says_what_to_do_and_leaves_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(StateError) as error:
        store(tmp_path).snapshot()
    assert error.value.hint
    assert (tmp_path / "state.json").read_bytes() == content


def test_transaction_keeps_the_state_before_it(tmp_path: Path) -> None:
    for name in ("web", "db"):
        with store(tmp_path).transaction() as records:
            records.put(record(name))
    (tmp_path / "state.json").write_bytes(b"spoilt")
    with pytest.raises(StateError) as error:
        store(tmp_path).snapshot()
    assert "banger recover" in str(error.value.hint)
    (tmp_path / "state.json").write_bytes((tmp_path / "state.json.bak").read_bytes())
    assert [each.name for each in store(tmp_path).snapshot().vms()] == ["web"]


def test_state_that_is_gone_is_not_taken_for_none(tmp_path: Path) -> None:
    for name in ("web", "db"):
        with store(tmp_path).transaction() as records:
            records.put(record(name))
    (tmp_path / "state.json").unlink()
    with pytest.raises(StateError, match="is gone"), store(tmp_path).transaction():
        pass
    assert not (tmp_path / "state.json").exists()


def test_state_that_is_its_own_previous_one_after_a_kill_leaves_nothing(tmp_path: Path) -> None:
    """Killed between the two renames, and then rename(2) does nothing, for both are names of one file."""
    with store(tmp_path).transaction() as records:
        records.put(record("web"))
    (tmp_path / "state.json.bak").hardlink_to(tmp_path / "state.json")
    with store(tmp_path).transaction() as records:
        records.put(record("db"))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["locks", "state.json", "state.json.bak"]


def test_previous_state_that_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "state.json.bak" / "x").mkdir(parents=True)
    for name in ("web", "db"):
        with store(tmp_path).transaction() as records:
            records.put(record(name))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["locks", "state.json", "state.json.bak"]


@pytest.mark.parametrize(
    "wrong", ['{"vms": []}', '{"vms": {"x": {}}}', '{"vms": {"1": 1}}', '{"vms": {"1": {}}}', '{"images": {"1": {}}}']
)
def test_snapshot_of_another_shape_is_a_state_error(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "state.json").write_text('{"schema": 1, ' + wrong[1:])
    with pytest.raises(StateError, match="not a state file of ours"):
        found = store(tmp_path).snapshot()
        assert (found.vms(), found.images()) == ([], {})


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in _keys(item)}
    if isinstance(value, list):
        return {key for item in value for key in _keys(item)}
    return set()


def test_stored_document_has_nothing_transient(tmp_path: Path) -> None:  # seed S1
    with store(tmp_path).transaction() as records:
        records.put(record("web"))
    keys = _keys(json.loads((tmp_path / "state.json").read_text()))
    transient = {"pid", "start_time", "tap", "tap_device", "base_loop", "cow_loop", "dm_name", "dm_dev", "handles"}
    assert not keys & transient


def test_stored_runtime_has_every_durable_field(tmp_path: Path) -> None:  # seed S2
    fields = (
        "state guest_ip api_socket vsock_path vsock_cid log_path metrics_path dns_name vm_directory system_overlay "
        "work_disk last_error"
    )
    assert set(asdict(RUNTIME)) == set(fields.split())


def test_with_runtime_changes_only_that() -> None:
    changed = record("web").with_runtime(last_error="x")
    assert replace(changed, runtime=RUNTIME) == record("web")
