"""One run of the lab: its disk, its QEMU process, what it says."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from banger.linux.run import require
from tests.lab.build import ROOT, Lab, install_checkout, make_disk
from tests.lab.cache import cache_directory
from tests.lab.job import PORT

__all__ = ["Machine", "Run", "prepared"]

_DISK_MIB = 12288
_KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 softlockup_panic=1 watchdog_thresh=30 mitigations=off "
    "rcupdate.rcu_cpu_stall_timeout=60 sysctl.kernel.panic_on_rcu_stall=1 "
    "banger.root=overlay banger.lower=/dev/vda banger.upper=/dev/vdc init=/lab-init"
)
_POWER_OFF_S = 30.0
_TAIL_LINES = 60


@dataclass(frozen=True, slots=True)
class Run:
    """What is made for one run, all in one directory."""

    lab: Lab
    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "run.ext4"

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def reports(self) -> Path:
        return self.directory / "reports.jsonl"


@contextlib.contextmanager
def prepared(lab: Lab, job: str, files: dict[str, str]) -> Iterator[Run]:
    """A run's disk with this checkout, the job (a shell script) and files for it; all gone when the block ends.

    The disk is an upper disk as the initrd of our images takes it, with what shall be at /lab/run beside it.
    """
    with tempfile.TemporaryDirectory(prefix="banger-lab-") as name:
        run = Run(lab, Path(name))
        content = run.directory / "content"
        for directory in ("upper/lab", "work", "checkout", "tmp"):
            (content / directory).mkdir(parents=True)
        (content / "tmp").chmod(0o1777)
        shutil.copy(Path(__file__).with_name("init.sh"), content / "upper/lab-init")
        (content / "upper/lab-init").chmod(0o755)
        (content / "job").write_text(job)
        for file, text in files.items():
            (content / file).write_text(text)
        install_checkout(content / "site", run.directory / "build", lab.build_tools)
        shutil.copy2(ROOT / "pyproject.toml", content / "checkout")
        for part in ("tests", "playbooks"):
            shutil.copytree(
                ROOT / part, content / "checkout" / part, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
            )
        make_disk(content, run.disk, _DISK_MIB)
        shutil.rmtree(content)
        shutil.rmtree(run.directory / "build")
        yield run


class Machine:
    """The running lab. Use it with `with`: the end of the block is its end."""

    def __init__(self, run: Run, *, interactive: bool = False) -> None:
        """Interactive: the console is our terminal."""
        serial = "mon:stdio" if interactive else f"file:{run.console}"
        run.reports.touch()
        self.run = run
        self._read_to = 0
        self._process = subprocess.Popen(
            # Whatever ends us ends it too.
            ["setpriv", "--pdeathsig", "KILL", "--", *_command(run), "-serial", serial],
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=None if interactive else subprocess.DEVNULL,
            start_new_session=not interactive,  # Ctrl-C is for us
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.ended(_POWER_OFF_S)
        self.kill()
        if self.run.console.exists():
            shutil.copy(self.run.console, cache_directory() / "console.log")

    def ended(self, timeout_s: float) -> bool:
        """Whether it is off within this time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
            return True
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self) -> list[bytes]:
        """What has come in whole lines through the serial port since the last call."""
        with self.run.reports.open("rb") as stream:
            stream.seek(self._read_to)
            found = _whole_lines(stream)
        self._read_to += sum(map(len, found))
        return found

    def console_tail(self) -> str:
        return "\n".join(self._console().replace("\r", "").splitlines()[-_TAIL_LINES:])

    def _console(self) -> str:
        return self.run.console.read_bytes().decode("utf-8", "replace") if self.run.console.exists() else ""


def _whole_lines(stream: IO[bytes]) -> list[bytes]:
    return [line for line in stream if line.endswith(b"\n")]


def _command(run: Run) -> list[str]:
    system = run.lab.system
    argv = [str(require("qemu-system-x86_64")), "-name", "banger-lab", "-nodefaults", "-no-user-config"]
    argv += ["-display", "none", "-no-reboot", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512"]
    argv += ["-cpu", "max,+svm", "-smp", "2", "-m", "3G"]
    argv += ["-kernel", str(system / "vmlinuz"), "-initrd", str(system / "initrd.img"), "-append", _KERNEL_ARGUMENTS]
    disks = ((system / "rootfs.ext4", "readonly=on"), (run.lab.shared, "readonly=on"), (run.disk, "cache=unsafe"))
    for number, (path, access) in enumerate(disks):
        argv += ["-drive", f"if=none,id=disk{number},format=raw,{access},file={str(path).replace(',', ',,')}"]
        argv += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    argv += ["-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"]
    argv += ["-chardev", f"file,id=reports,path={str(run.reports).replace(',', ',,')}", "-device", "virtio-serial-pci"]
    return [*argv, "-device", f"virtserialport,chardev=reports,name={PORT}"]
