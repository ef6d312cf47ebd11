"""The store: downloads, artifacts and images, each under a name made from its content or its inputs.

    blobs/ab/abcd...          what was downloaded, by SHA-256
    artifacts/ID/content      a layer, guest kernel or initramfs; artifact.json beside it says its digest and size
    tools/ID/                 the pinned file system tools, unpacked
    images/ID.json            which artifacts make an image, and which blobs they were made of
    holds/                    file locks

What stands under a final name is whole (see `mlvm.files`). A use is found by looking: machines name their image,
projects register theirs when they build. `prune` removes what has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from mlvm.download import Blobs
from mlvm.files import disk_used, hold, is_temporary, remove_tree, write_whole
from mlvm.image.document import Artifact, Image, Step
from mlvm.paths import SPEC_NAME, Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Something in the store: `kind` is image, layer, blob or tools; `size` in bytes on disk."""

    kind: str
    name: str
    id: str
    size: int
    used_by: tuple[str, ...]
    paths: tuple[Path, ...]


class Store:
    """The store of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.store
        self.blobs = Blobs(self.folder / "blobs")

    def using(self) -> AbstractContextManager[None]:
        """Hold the store for use: pruning waits until the block is over."""
        return hold(self.folder / "holds" / "store", shared=True)

    def artifact_folder(self, step_id: str) -> Path:
        """Where the artifact of a step is, or will be."""
        return self.folder / "artifacts" / step_id

    def tools_folder(self, tools_id: str) -> Path:
        """Where the unpacked tools are, or will be."""
        return self.folder / "tools" / tools_id

    def find_artifact(self, step_id: str) -> Artifact | None:
        """Return the artifact of a step; None when it is not there, or not as large as it was made."""
        folder = self.artifact_folder(step_id)
        try:
            found = json.loads((folder / "artifact.json").read_text())
            content = folder / "content"
            if content.stat().st_size != found["size"]:
                return None
            return Artifact(path=content, **found)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def find_image(self, image_id: str) -> Image | None:
        """Return a built image; None when any part of it is missing or damaged."""
        try:
            found = json.loads((self.folder / "images" / f"{image_id}.json").read_text())
            layers = [self.find_artifact(part) for part in found["layers"]]
            vmlinuz, initramfs = self.find_artifact(found["vmlinuz"]), self.find_artifact(found["initramfs"])
            tools = self.tools_folder(found["tools"])
        except (OSError, ValueError, KeyError):
            return None
        if vmlinuz is None or initramfs is None or not tools.is_dir():
            return None
        whole = tuple(layer for layer in layers if layer is not None)
        if len(whole) != len(layers):
            return None
        return Image(
            id=image_id,
            name=found["name"],
            python=found["python"],
            debian=found["debian"],
            kernel_release=found["kernel_release"],
            layers=whole,
            vmlinuz=vmlinuz,
            initramfs=initramfs,
            tools=tools,
        )

    def write_image(self, image: Image, *, tools_id: str, blobs: list[str]) -> None:
        """Write down an image whose parts are all here."""
        document = {
            "name": image.name,
            "python": image.python,
            "debian": image.debian,
            "kernel_release": image.kernel_release,
            "layers": [layer.id for layer in image.layers],
            "vmlinuz": image.vmlinuz.id,
            "initramfs": image.initramfs.id,
            "tools": tools_id,
            "blobs": sorted(blobs),
        }
        write_whole(self.folder / "images" / f"{image.id}.json", json.dumps(document, indent=1) + "\n")

    def register_project(self, name: str, folder: Path, image_id: str) -> None:
        """Remember that the project in `folder` uses an image, and that `name` means this project."""
        write_whole(
            self.home.data / "projects" / f"{name}.json",
            json.dumps({"folder": str(folder), "image": image_id}, indent=1) + "\n",
        )

    def project_called(self, name: str) -> Path | None:
        """Return the folder of the project last built under `name`, when its spec is still there."""
        path = self.home.data / "projects" / f"{name}.json"
        if path.parent != self.home.data / "projects" or not path.is_file():
            return None
        folder = Path(json.loads(path.read_text())["folder"])
        return folder if (folder / SPEC_NAME).is_file() else None

    def uses(self) -> dict[str, list[str]]:
        """Return image id -> who uses it, as `machine NAME` and `project NAME`."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.home.machines.glob("*/machine.json")):
            image_id = _field(path, "image_id")
            if image_id:
                found.setdefault(image_id, []).append(f"machine {path.parent.name}")
        for path in sorted((self.home.data / "projects").glob("*.json")):
            image_id, folder = _field(path, "image"), _field(path, "folder")
            if image_id and folder and (Path(folder) / SPEC_NAME).is_file():
                found.setdefault(image_id, []).append(f"project {path.stem}")
        return found

    def usage(self) -> list[Kept]:
        """Return everything that is kept, images first, with who uses it."""
        uses, parts = self.uses(), self._used_parts()
        kept = [
            Kept(
                kind="image",
                name=_field(path, "name") or "?",
                id=path.stem,
                size=disk_used(path),
                used_by=tuple(uses.get(path.stem, ())),
                paths=(path,),
            )
            for path in sorted((self.folder / "images").glob("*.json"))
        ]
        for kind, folder in (("layer", "artifacts"), ("tools", "tools")):
            for path in _entries(self.folder / folder):
                name = _field(path / "artifact.json", "name") or kind
                kept.append(
                    Kept(
                        kind=kind, name=name, id=path.name, size=disk_used(path),
                        used_by=tuple(parts.get(path.name, ())), paths=(path,),
                    )
                )  # fmt: skip
        for used in (True, False):
            blobs = [path for path in (self.folder / "blobs").glob("??/*") if (path.name in parts) is used]
            if blobs:
                users = sorted({user for path in blobs for user in parts.get(path.name, ())})
                kept.append(
                    Kept(
                        kind="blobs", name=f"{len(blobs)} downloads", id="-", size=sum(map(disk_used, blobs)),
                        used_by=tuple(users), paths=tuple(blobs),
                    )
                )  # fmt: skip
        return kept

    def prune(self, *, dry_run: bool = False) -> list[Kept]:
        """Remove what no machine and no project uses; wait for builds to end first. Returns what went."""
        with hold(self.folder / "holds" / "store"):
            doomed = [item for item in self.usage() if not item.used_by]
            if not dry_run:
                for path in (path for item in doomed for path in item.paths):
                    if path.is_dir():
                        remove_tree(path)
                    else:
                        path.unlink(missing_ok=True)
                for path in self.folder.glob("*/.tmp-*"):
                    remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return doomed

    def _used_parts(self) -> dict[str, list[str]]:
        """Return part id or blob digest -> users of the images it is part of."""
        found: dict[str, list[str]] = {}
        for image_id, users in self.uses().items():
            try:
                document = json.loads((self.folder / "images" / f"{image_id}.json").read_text())
            except (OSError, ValueError):
                continue
            own = [*document["layers"], document["vmlinuz"], document["initramfs"], document["tools"]]
            for part in [*own, *document["blobs"]]:
                found.setdefault(part, []).extend(users)
        return found


def write_artifact_record(folder: Path, step: Step, *, sha256: str, size: int) -> None:
    """Write the record beside an artifact's content."""
    record = asdict(Artifact(name=step.name, id=step.id, path=folder, sha256=sha256, size=size))
    del record["path"]
    (folder / "artifact.json").write_text(json.dumps(record) + "\n")


def _entries(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if not is_temporary(path))


def _field(path: Path, key: str) -> str | None:
    try:
        value = json.loads(path.read_text())[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
