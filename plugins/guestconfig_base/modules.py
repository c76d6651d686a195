"""The guest modules every playbook knows. Each is a dataclass of its options and a function that fills the builder."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Literal

from banger.errors import PlaybookError, Problem
from banger.guestconfig import GuestConfig
from banger.types import FileMode, GuestFilePath, GuestModule, GuestPath, ModuleContext, Mount, OwnerId

_READABLE = FileMode(0o644)
_ENTERED = FileMode(0o755)
_ROOT = OwnerId(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What every module that writes a file takes. `uid` and `gid` are numbers: names are the guest's own."""

    dest: GuestFilePath
    mode: FileMode = _READABLE
    uid: OwnerId = _ROOT
    gid: OwnerId = _ROOT

    def write(self, builder: GuestConfig, content: bytes | str) -> None:
        builder.write_file(self.dest, content, mode=self.mode, uid=self.uid, gid=self.gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions(_Written):
    """`file`: a file of the guest with this content, as it stands in the playbook.

    With `encoding: base64` the content is bytes written so (RFC 4648); blanks and line ends in it do not count.
    """

    content: str
    encoding: Literal["utf-8", "base64"] = "utf-8"

    def __post_init__(self) -> None:
        """Raises ValueError for content that is not in its encoding."""
        self.decoded()

    def decoded(self) -> bytes:
        """What the guest gets."""
        if self.encoding == "utf-8":
            return self.content.encode("utf-8", "surrogateescape")
        try:
            return base64.b64decode(re.sub(r"\s", "", self.content), validate=True)
        except ValueError as error:
            raise ValueError("'content' is not base64, as base64(1) writes it") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions(_Written):
    """`copy`: a file of the guest with the bytes of the file `src`, named relative to the playbook."""

    src: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateOptions(_Written):
    """`template`: a file of the guest with the rendered text of the file `src`, named relative to the playbook."""

    src: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryOptions:
    """`directory`: a directory of the guest. What leads to a file is made with it, and needs none."""

    dest: GuestPath
    mode: FileMode = _ENTERED
    uid: OwnerId = _ROOT
    gid: OwnerId = _ROOT


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`mount`: a line of the guest's fstab(5). It replaces what the image mounts on `target`.

    `dump` and `passno` are fstab's fifth and sixth field.
    """

    source: str
    target: GuestPath
    fstype: str
    options: tuple[str, ...] = ("defaults",)
    dump: int = 0
    passno: int = 0


@dataclass(frozen=True, slots=True)
class UnmountOptions:
    """`unmount`: nothing is mounted on `target` by the guest's fstab."""

    target: GuestPath


def write_file(builder: GuestConfig, options: FileOptions, context: ModuleContext) -> None:
    """The module `file`."""
    options.write(builder, options.decoded())


def copy_file(builder: GuestConfig, options: CopyOptions, context: ModuleContext) -> None:
    """The module `copy`."""
    options.write(builder, context.read_source(options.src))


def write_template(builder: GuestConfig, options: TemplateOptions, context: ModuleContext) -> None:
    """The module `template`."""
    try:
        text = context.read_source(options.src).decode()
    except UnicodeDecodeError as error:
        problem = Problem(context.place, f"the template '{options.src}' is not UTF-8 text", "copy it instead")
        raise PlaybookError([problem]) from error
    options.write(builder, context.render(text, options.src))


def make_directory(builder: GuestConfig, options: DirectoryOptions, context: ModuleContext) -> None:
    """The module `directory`."""
    builder.add_directory(options.dest, options.mode, uid=options.uid, gid=options.gid)


def mount(builder: GuestConfig, options: MountOptions, context: ModuleContext) -> None:
    """The module `mount`."""
    builder.add_mount(
        Mount(options.source, options.target, options.fstype, options.options, options.dump, options.passno)
    )


def unmount(builder: GuestConfig, options: UnmountOptions, context: ModuleContext) -> None:
    """The module `unmount`."""
    builder.drop_mount(options.target)


MODULES = (
    GuestModule("file", FileOptions, write_file),
    GuestModule("copy", CopyOptions, copy_file),
    GuestModule("template", TemplateOptions, write_template),
    GuestModule("directory", DirectoryOptions, make_directory),
    GuestModule("mount", MountOptions, mount),
    GuestModule("unmount", UnmountOptions, unmount),
)
