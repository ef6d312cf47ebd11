"""Where downloads, built things and images are kept, and how they are found again.

    store/blobs/ab/abcd...                      downloads, by their own digest (`mlvm.download`)
    store/artifacts/<step id>/content           what a step made, by the digest of what it was made of
    store/artifacts/<step id>/artifact.json     its name, size and digest
    store/tools/<step id>/                      the pinned tools and the guest's interpreter, unpacked
    store/bytecode/<key>                        what a wheel's modules were compiled to
    store/warm/<key>/                           RAM of a booted image (`mlvm.machine.qemu.warm`)
    store/images/<image id>.json                which of them an image consists of
    store/holds/                                file locks

A cache: all of it can be made again. Everything appears under its final name whole, and is never changed after; what
is found with another size than its record says is taken for absent. Who uses what, and what may go, is the matter of
`mlvm.image.usage`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlvm import files
from mlvm.download import Blobs
from mlvm.image.document import LAYERS, OPTIONAL_LAYERS, Artifact, Image
from mlvm.image.usage import Item, Usage
from mlvm.paths import Home

RECORD_VERSION = 1
_PARTS = (*LAYERS, "vmlinuz", "initramfs")
#: Fields of an image's record that are plain texts.
_TEXTS = ("id", "name", "python", "debian", "kernel_release", "tools", "interpreter")
#: Holds that last as long as this process: images it has been given.
_kept_open = ExitStack()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """An image's record: `parts` name the step id of each part, `blobs` the downloads it was made from.

    `tools`, both interpreters and `bytecode` name what a rebuild would use again.
    """

    id: str
    name: str
    python: str
    debian: str
    kernel_release: str
    parts: Mapping[str, str]
    tools: str
    interpreter: str
    bytecode: tuple[str, ...]
    blobs: tuple[str, ...]
    own_interpreter: str = ""

    @property
    def interpreters(self) -> tuple[str, ...]:
        """Debian's, and the box's own if it has one."""
        return (self.interpreter, *([self.own_interpreter] if self.own_interpreter else []))


class Store:
    """The store of one home. Looking at it never fails for what is not there."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.store

    @property
    def blobs(self) -> Blobs:
        """The downloads."""
        return Blobs(self.folder / "blobs")

    @property
    def bytecode(self) -> Path:
        """The folder of wheels' bytecode."""
        return self.folder / "bytecode"

    @property
    def images(self) -> Path:
        """The folder of image records."""
        return self.folder / "images"

    @property
    def warm(self) -> Path:
        """The folder of warm states."""
        return self.folder / "warm"

    def artifact_folder(self, step_id: str) -> Path:
        """Where what a step makes is, or will be."""
        return self.folder / "artifacts" / step_id

    def tools_folder(self, step_id: str) -> Path:
        """Where the unpacked tools are, or will be."""
        return self.folder / "tools" / step_id

    def building(self, *, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Keep prune out during the block."""
        return files.hold(self.folder / "holds" / "store", shared=True, waiting=waiting)

    def making(self, what: str, *, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        """Be the only one to make `what` during the block; `waiting` is called when somebody else does now."""
        return files.hold(self.folder / "holds" / what, waiting=waiting)

    def find_artifact(self, step_id: str) -> Artifact | None:
        """Return what a step made; None when it is not there, or not as long as it was."""
        folder = self.artifact_folder(step_id)
        try:
            record = json.loads((folder / "artifact.json").read_text())
            found = Artifact(
                name=_text(record["name"]),
                id=step_id,
                path=folder / "content",
                sha256=_text(record["sha256"]),
                size=record["size"],
            )
            return found if found.path.stat().st_size == found.size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def new_artifact(self, step_id: str, name: str) -> Iterator[Path]:
        """Yield a path to write content to; at the end of the block it becomes the artifact of `step_id`.

        Whatever stood there before, being damaged, goes first. The caller holds `making(step_id)`.
        """
        target = self.artifact_folder(step_id)
        files.remove_tree(target)
        with files.folder_whole(target) as folder:
            content = folder / "content"
            yield content
            content.chmod(0o444)
            record = {"name": name, "sha256": files.sha256_of(content), "size": content.stat().st_size}
            (folder / "artifact.json").write_text(json.dumps(record) + "\n")

    def find_image(self, image_id: str) -> Image | None:
        """Return an image that is here with all of its parts, else None."""
        entry = self.entry(image_id)
        if entry is None:
            return None
        found = {name: self.find_artifact(step_id) for name, step_id in entry.parts.items()}
        parts = {name: artifact for name, artifact in found.items() if artifact is not None}
        tools = self.tools_folder(entry.tools)
        if len(parts) < len(found) or not tools.is_dir():
            return None
        return Image(
            id=entry.id,
            name=entry.name,
            python=entry.python,
            debian=entry.debian,
            kernel_release=entry.kernel_release,
            layers=tuple(parts[name] for name in LAYERS if name in parts),
            vmlinuz=parts["vmlinuz"],
            initramfs=parts["initramfs"],
            tools=tools,
        )

    def kept_image(self, image_id: str) -> Image | None:
        """Return an image as `find_image` does, and keep it from being pruned for as long as this process lives."""
        with self.building():
            self.keep(image_id)
            return self.find_image(image_id)

    def guest_kernel(self) -> Artifact | None:
        """Return a guest kernel to try an accelerator with, of whatever image; None before the first build."""
        found = (self.find_image(path.stem) for path in sorted(self.images.glob("*.json")))
        return next((image.vmlinuz for image in found if image is not None), None)

    def entry(self, image_id: str) -> ImageEntry | None:
        """Return an image's record, None when there is none that can be read."""
        try:
            record = json.loads((self.images / f"{image_id}.json").read_text())
            if record["version"] != RECORD_VERSION or record["id"] != image_id:
                return None
            return ImageEntry(
                **{name: _text(record[name]) for name in _TEXTS},
                parts={
                    name: _text(record["parts"][name])
                    for name in _PARTS
                    if name in record["parts"] or name not in OPTIONAL_LAYERS
                },
                bytecode=tuple(map(_text, record["bytecode"])),
                blobs=tuple(map(_text, record["blobs"])),
                own_interpreter=_text(record.get("own_interpreter", "")),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def add_image(self, entry: ImageEntry) -> None:
        """Write an image's record; from then on it can be found."""
        document = {"version": RECORD_VERSION, **{name: getattr(entry, name) for name in entry.__slots__}}
        files.write_whole(self.images / f"{entry.id}.json", json.dumps(document, indent=1) + "\n")

    def keep(self, image_id: str) -> None:
        """Keep an image from being pruned for as long as this process lives."""
        key = (str(self.folder), image_id, os.getpid())
        if key not in _kept:
            _kept.add(key)
            _kept_open.enter_context(files.hold(self.image_hold(image_id), shared=True))

    def image_hold(self, image_id: str) -> Path:
        """The file lock that whoever uses an image holds, shared."""
        return self.folder / "holds" / f"image-{image_id}"

    def register_project(self, name: str, folder: Path, image_id: str) -> None:
        """Remember that the project in `folder` uses an image, under the name it can be asked for."""
        Usage(self).register(name, folder, image_id)

    def project_called(self, name: str) -> Path | None:
        """Return the folder of the project called `name` that was built here last, if it is still there."""
        return Usage(self).project_called(name)

    def usage(self) -> list[Item]:
        """Return everything that is kept, what it takes, and who uses it."""
        return Usage(self).items()

    def prune(self, *, dry_run: bool = False) -> list[Item]:
        """Remove what nobody uses and return it; with `dry_run`, only return it."""
        return Usage(self).prune(dry_run=dry_run)


_kept: set[tuple[str, str, int]] = set()


def _text(value: object) -> str:
    """Return a record's text. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
