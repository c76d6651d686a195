"""The lab's disks, made once and cached: a Debian with its kernel, and what every run shares.

`python -m tests.lab.build` makes them all and says where they are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from banger_image_debootstrap.build import scratch_directory
from banger_image_debootstrap.sources import host_sources
from packaging.requirements import Requirement

from banger.linux.image import build_image
from banger.linux.pipe import reading
from banger.linux.run import run
from banger.linux.staging import StagedRoot, read_archive
from tests.firecracker import firecracker_binaries
from tests.lab.cache import cache_directory, cached, locked

ROOT = Path(__file__).parents[2]
PLAYBOOK = Path(__file__).with_name("image.yml")
PYTHON_VERSION = "3.11"
"""Of the suite below: the wheels that the lab's tests import are those for this one."""

Say = Callable[[str], None]

_BUILDER = 1
"""Raised when the same recipe comes to make another lab."""
_SUITE = "bookworm"
_PACKAGES = (
    "busybox-static", "dmsetup", "e2fsprogs", "iproute2", "iputils-ping", "kmod", "linux-image-cloud-amd64", "lz4",
    "nftables", "openssh-client", "procps", "python3", "strace", "util-linux", "xz-utils", "zstd",
)  # fmt: skip
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Lab:
    """What a run of the lab needs and never changes."""

    system: Path
    """A directory as an image's: `rootfs.ext4`, `vmlinuz`, `initrd.img`."""
    shared: Path
    """A disk with `bin` (Firecracker), `deps` (Python packages), `images` and an empty `run`: /lab in the lab."""
    build_tools: Path
    """Python packages that build the checkout's wheel, for PYTHONPATH."""


def lab(say: Say) -> Lab:
    """Everything, from the cache or made now; `say` is told what takes long.

    Raises BangerError or subprocess.SubprocessError for what cannot be made.
    """
    return Lab(_system(say), _shared(say), _build_tools(say))


def lab_image(say: Say = lambda _: None) -> Path:
    """The directory of a built guest image, the one that applying `image.yml` finds; inside the lab, the copy there."""
    if os.environ.get("BANGER_IN_LAB"):
        (directory,) = Path("/lab/images").iterdir()
        return directory
    home = cache_directory() / "home"
    with locked("home"):
        if not home.is_dir():
            say("building the guests' image")
        done = subprocess.run(
            [sys.executable, "-m", "banger", "apply", str(PLAYBOOK), "--format", "json"],
            env={**os.environ, "BANGER_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_TIMEOUT_S,
            check=True,
        )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    resource = next(event["actions"][-1]["resource"] for event in events if event["type"] == "plan")
    return home / "images" / str(resource).split("/")[1]


# --- Debian ---


def _system(say: Say) -> Path:
    def fill(directory: Path) -> None:
        say(f"building the lab's Debian ({len(_PACKAGES)} packages and what they need)")
        with StagedRoot(directory / "staging") as root:
            with reading(_mmdebstrap()) as archive:
                read_archive(archive, root)
            root.write("/etc/hostname", b"lab\n")
            root.write("/etc/hosts", b"127.0.0.1 localhost lab\n")
            build_image(root, directory, lambda _: None)

    return cached("system", [_BUILDER, _SUITE, *_PACKAGES], fill)


def _mmdebstrap() -> list[str]:
    mode = "root" if os.geteuid() == 0 else "unshare"
    scratch = scratch_directory(mode)
    argv = ["env", "INITRD=No", *([f"TMPDIR={scratch}"] if scratch else []), "mmdebstrap", f"--mode={mode}"]
    argv += ["--variant=minbase", f"--include={','.join(_PACKAGES)}", "--format=tar"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    return [*argv, _SUITE, "-", *host_sources(_SUITE, "amd64")]


# --- what every run shares ---


def _shared(say: Say) -> Path:
    image = lab_image(say)
    firecracker = firecracker_binaries()
    pins = sorted(_pinned([*_dependencies(), "pytest", "hypothesis"]))

    def fill(directory: Path) -> None:
        say("making the disk of what all runs share")
        content = directory / "content"
        _pip_install(content / "deps", ["--only-binary=:all:", "--python-version", PYTHON_VERSION, *pins])
        shutil.copytree(firecracker, content / "bin")
        (content / "run").mkdir()
        (content / "images").mkdir()
        # cp(1) keeps the holes in the image's disks.
        run(["cp", "-r", "--sparse=always", image, content / "images"], timeout_s=_TIMEOUT_S)
        make_disk(content, directory / "shared.ext4", 2048)
        shutil.rmtree(content)

    return cached("shared", [_BUILDER, image.name, firecracker.name, *pins], fill) / "shared.ext4"


def make_disk(content: Path, disk: Path, size_mib: int) -> None:
    """A sparse ext4 image with a directory's content. Without a journal: it is never looked at after a crash."""
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-N", "65536"]
    run([*argv, "-d", content, disk, f"{size_mib}M"], timeout_s=_TIMEOUT_S)


def _dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(requirement) for requirement in project["dependencies"]]


def _pinned(requirements: Iterable[str]) -> set[str]:
    """The installed versions of these distributions and of all that they need, as `name==version`.

    Reports are handed from the lab's pytest to this one, so both are the same.
    """
    pins: set[str] = set()
    ahead = [Requirement(text) for text in requirements]
    while ahead:
        wanted = ahead.pop()
        pin = f"{wanted.name.lower()}=={metadata.version(wanted.name)}"
        if pin not in pins:
            pins.add(pin)
            needed = map(Requirement, metadata.requires(wanted.name) or ())
            ahead += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return pins


def _build_tools(say: Say) -> Path:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]

    def fill(directory: Path) -> None:
        say("fetching what builds the wheel")
        _pip_install(directory, required)

    return cached("build-tools", required, fill)


def _pip_install(target: Path, arguments: Iterable[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*command, "--target", target, *arguments], timeout_s=_TIMEOUT_S)


def install_checkout(target: Path, scratch: Path, build_tools: Path) -> None:
    """Build the wheel of this checkout, in a copy so that nothing is left in it, and install it in `target`."""
    source = scratch / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("banger", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--no-index", "--no-build-isolation", "--target", target, source),
        ],
        env={"PYTHONPATH": str(build_tools)},
        timeout_s=_TIMEOUT_S,
    )


def main() -> None:
    begin = time.monotonic()
    made = lab(lambda text: print(f"{time.monotonic() - begin:5.0f} s  {text}", flush=True))
    print(f"{time.monotonic() - begin:5.0f} s  {made.system}, {made.shared}")


if __name__ == "__main__":
    main()
