"""Images: named by the digest of their recipe, built once, customised in a copy, shared by every VM that uses them."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from banger.core import fstab
from banger.core.digests import Digests
from banger.core.guest_files import FSTAB, digest_of
from banger.core.home import Home
from banger.core.plugins import Plugins
from banger.core.recipe import Recipe
from banger.core.shape import shaped
from banger.errors import StateError
from banger.guestconfig import GuestConfig
from banger.host import Host, HostView
from banger.imagedirectory import CUSTOMISING, FACTS, ImageDirectory, new_build
from banger.resource import Handle, Needs, Present, Resource, Stage
from banger.types import WORK_MOUNT_POINT, GuestFile, Image, ImageFacts, ImageSpec

_DIGEST_LENGTH = 20


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """An image to be: where it will lie, and the resources that put it there (its base first)."""

    name: str
    digest: str
    directory: Path
    base: Path
    """The directory of the image it is made from; its own when it is not customised."""
    resources: tuple[Resource, ...]
    recipe: Recipe | None = None
    """What it was asked to be; None for one that is only known by its name."""


@dataclass(frozen=True, kw_only=True)
class CustomisedImage(ImageDirectory):
    """A base image with files of ours in a copy of it, and the seed of work disks if one was asked for."""

    needs: tuple[str, ...]
    base: Path
    customisation: GuestConfig
    work_seed_bytes: int | None
    stage = "customise_image"

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        unfinished = self._unfinished
        host.files.remove_tree(unfinished)
        host.files.make_directory(unfinished)
        base, image = (Image("", "", d, read_facts(host, self.base)) for d in (self.base, unfinished))
        stage("copying the base image")
        for source, copy in ((base.rootfs, image.rootfs), (base.kernel, image.kernel), (base.initrd, image.initrd)):
            host.files.clone(source, copy)
        files, table = self._files(base.facts.fstab)
        directories = self.customisation.directories()
        if files or directories:
            stage(f"writing {len(files)} files")
            host.ext4.patch(image.rootfs, files, directories=directories)
        if self.work_seed_bytes is not None:
            stage("making the work seed")
            identity = str(uuid.uuid5(uuid.NAMESPACE_OID, self.directory.name))
            host.ext4.copy_tree(
                image.rootfs,
                WORK_MOUNT_POINT,
                image.work_seed,
                self.work_seed_bytes,
                label="banger-seed",
                uuid=identity,
            )
        facts = replace(base.facts, fstab=table, work_seed_bytes=self.work_seed_bytes, build=new_build())
        host.files.write(unfinished / FACTS, json.dumps(asdict(facts), indent=1).encode())
        host.files.remove_tree(self.directory)
        host.files.rename(unfinished, self.directory)
        return {}

    def remove(self, host: Host, handle: Handle | None, stage: Stage) -> None:
        host.files.remove_tree(self._unfinished)
        super().remove(host, handle, stage)

    @property
    def _unfinished(self) -> Path:
        return self.directory.with_name(self.directory.name + CUSTOMISING)

    def _files(self, original: str | None) -> tuple[list[GuestFile], str | None]:
        config = self.customisation
        files = list(config.files())
        if not config.mounts and not config.dropped_mounts:
            return files, original
        table = fstab.render_fstab(original, config.dropped_mounts, config.mounts)
        return [*files, GuestFile(FSTAB, table.encode())], table


@dataclass(frozen=True)
class KnownImage(ImageDirectory):
    """An image that some playbook made; it is used, and cannot be made without that playbook."""

    needs = ()

    def create(self, host: Host, needs: Needs, stage: Stage) -> Handle:
        raise StateError(f"{self.key} is not there any more", hint="apply the playbook that makes it")


def known_image(home: Home, name: str, digest: str) -> ImagePlan:
    """The image that a name stood for when a playbook was last applied."""
    directory = home.image_directory(digest)
    return ImagePlan(name, digest, directory, directory, (KnownImage(f"image/{digest}", directory),))


def image_of_record(home: Home, host: HostView, name: str, digest: str) -> Image:
    """A recorded VM's image; one whose files are gone has no facts."""
    directory = home.image_directory(digest)
    built = host.files.status(directory / FACTS) is not None
    return Image(name, digest, directory, read_facts(host, directory) if built else UNBUILT)


def plan_image(
    home: Home, plugins: Plugins, spec: ImageSpec, customisation: GuestConfig, digests: Digests
) -> ImagePlan:
    """Where this image lies and how it gets there. An image without customisation is its base."""
    recipe = plugins.image_recipe(spec, digests.of)
    base_digest = _digest({"source": spec.source, "recipe": recipe})
    base = home.image_directory(base_digest)
    resources = plugins.prepare_image(spec, base)
    ours, asked = _customisation_recipe(customisation), Recipe.of(spec, customisation)
    if not any(ours.values()) and spec.work_seed_bytes is None:
        return ImagePlan(spec.name, base_digest, base, base, tuple(resources), asked)
    digest = _digest({"base": base_digest, "customisation": ours, "work_seed_bytes": spec.work_seed_bytes})
    directory = home.image_directory(digest)
    customised = CustomisedImage(
        key=f"image/{digest}/customised",
        needs=tuple(resource.key for resource in resources),
        base=base,
        directory=directory,
        customisation=customisation,
        work_seed_bytes=spec.work_seed_bytes,
    )
    return ImagePlan(spec.name, digest, directory, base, (*resources, customised), asked)


def needed(host: HostView, image: ImagePlan) -> tuple[Resource, ...]:
    """What must be looked after for this image: nothing but its last step once that is there.

    A customised image does not need its base any more, so a base that was cleaned away is not built again for it.
    """
    last = image.resources[-1]
    return (last,) if isinstance(last.observe(host, None), Present) else image.resources


def read_facts(host: HostView, directory: Path) -> ImageFacts:
    """The facts in an image's directory."""
    path = directory / FACTS
    if host.files.status(path) is None:
        raise StateError(f"the image in {directory} is not there or not whole", hint="apply the playbook that makes it")
    try:
        return shaped(ImageFacts, json.loads(host.files.read(path)))
    except (ValueError, RecursionError) as error:
        hint = f"mend it, or rm -r {directory} and apply; VMs that share it must then be made anew"
        raise StateError(f"{path} is not what banger wrote ({error})", hint=hint) from error


UNBUILT = ImageFacts(fstab=None, kernel_release=None, rootfs_bytes=0)
"""What can be said of an image before it is built, for plans and for tearing down VMs whose image is gone."""


def _customisation_recipe(config: GuestConfig) -> dict[str, Any]:
    return {
        "files": digest_of(config.files()),
        "directories": [[d.path, d.mode, d.uid, d.gid] for d in config.directories()],
        "mounts": [asdict(mount) for mount in config.mounts],
        "dropped": sorted(config.dropped_mounts),
    }


def _digest(recipe: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:_DIGEST_LENGTH]
