"""What the store keeps, who uses it, and what may go.

Two things use an image: a machine, whose disk builds on it, and a project that was built here and still has its lock.
Everything an image consists of or was made from is used with it. Prune takes the store for itself, so it waits for
builds; an image that a living process was given stays, whether or not anything else names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlvm import files
from mlvm.errors import StoreError
from mlvm.paths import LOCK_NAME

if TYPE_CHECKING:
    from mlvm.image.store import ImageEntry, Store

#: Seconds that a download is kept though no image names it: somebody may be resolving just now.
GRACE = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """Something kept; `size` in bytes on the disk.

    `kind` is "image", "part", "warm" (states, which machines map), "tools", "bytecode" or "downloads".
    """

    kind: str
    name: str
    id: str
    size: int
    used_by: tuple[str, ...]


class Usage:
    """Looks at a store, the machines and the projects of its home."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.roots = store.home.data / "roots"

    def register(self, name: str, folder: Path, image_id: str) -> None:
        """Remember that the project in `folder` uses an image."""
        key = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        document = {"name": name, "folder": str(folder.absolute()), "image_id": image_id}
        files.write_whole(self.roots / f"{key}.json", json.dumps(document) + "\n")

    def project_called(self, name: str) -> Path | None:
        """Return the folder of the project of this name that was built last."""
        found = [
            (root.stat().st_mtime, Path(document["folder"]))
            for root, document in self._projects()
            if document["name"] == name
        ]
        return max(found)[1] if found else None

    def items(self) -> list[Item]:
        """Return everything that is kept."""
        users = self._users()
        entries = self._entries()
        return [
            *(self._image(entry, users.get(entry.id, ())) for entry in entries),
            *self._parts(entries, users),
            *self._warm_states(users),
            *self._tools(entries, users),
            *self._bytecode(entries, users),
            *self._downloads(entries, users),
        ]

    def prune(self, *, dry_run: bool) -> list[Item]:
        """Remove what nothing uses. Raises StoreError when a machine's record cannot be read."""
        if not self.store.folder.is_dir():
            return []
        with files.hold(self.store.folder / "holds" / "store"), contextlib.ExitStack() as holds:
            users = self._users(strict=True)
            entries = self._entries()
            doomed = [entry for entry in entries if not users.get(entry.id) and self._free(entry, holds)]
            kept = [entry for entry in entries if entry not in doomed]
            everyone = {entry.id: ("somebody",) for entry in kept}
            items = [
                *(self._image(entry, ()) for entry in doomed),
                *(item for item in self._parts(kept, everyone) if not item.used_by),
                *(item for item in self._warm_states(everyone) if not item.used_by),
                *(item for item in self._tools(kept, everyone) if not item.used_by),
                *(item for item in self._bytecode(kept, everyone) if not item.used_by),
                *(item for item in self._downloads(kept, everyone) if not item.used_by),
            ]
            if not dry_run:
                self._remove(doomed, items, kept)
        return items

    def _remove(self, doomed: list[ImageEntry], items: list[Item], kept: list[ImageEntry]) -> None:
        """Remove records before what they name: a kill in between leaves parts without an image, never the reverse."""
        for entry in doomed:
            (self.store.images / f"{entry.id}.json").unlink(missing_ok=True)
        for item in items:
            if item.kind == "part":
                files.remove_tree(self.store.artifact_folder(item.id))
            elif item.kind == "warm":
                files.remove_tree(self.store.warm / item.id)
            elif item.kind == "tools":
                files.remove_tree(self.store.tools_folder(item.id))
            elif item.kind == "bytecode":
                (self.store.bytecode / item.id).unlink(missing_ok=True)
        for blob in self._unused_blobs(kept):
            blob.unlink(missing_ok=True)
        for folder in (
            "artifacts",
            "tools",
            "bytecode",
            "images",
            "warm",
        ):  # no build runs now: these are dead writers'
            for path in (self.store.folder / folder).glob(f"{files.TEMPORARY}*"):
                files.remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for root in self.roots.glob("*.json"):
            if root not in {path for path, _ in self._projects()}:
                root.unlink(missing_ok=True)

    def _free(self, entry: ImageEntry, holds: contextlib.ExitStack) -> bool:
        """Tell whether no living process uses an image; if so, keep it from starting to."""
        try:
            holds.enter_context(files.hold(self.store.image_hold(entry.id), wait=False))
        except BlockingIOError:
            return False
        return True

    def _users(self, *, strict: bool = False) -> dict[str, tuple[str, ...]]:
        """Return who uses each image, by its id."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.store.home.machines.glob("*/machine.json")):
            try:
                image_id = json.loads(path.read_text())["image_id"]
                if not isinstance(image_id, str):
                    raise TypeError("its `image_id` is no text")
                found.setdefault(image_id, []).append(f"machine {path.parent.name}")
            except (OSError, ValueError, KeyError, TypeError) as broken:
                if strict:
                    raise StoreError(
                        f"the record of machine `{path.parent.name}` cannot be read, so its image is not known",
                        details=f"{path}: {broken}",
                        hint=f"mlvm destroy {path.parent.name}",
                    ) from None
        for _, document in self._projects():
            found.setdefault(document["image_id"], []).append(f"project {document['folder']}")
        return {image_id: tuple(users) for image_id, users in found.items()}

    def _projects(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield the registered projects that still have their lock."""
        for path in sorted(self.roots.glob("*.json")):
            try:
                document = json.loads(path.read_text())
                texts = all(isinstance(document[name], str) for name in ("name", "folder", "image_id"))
                alive = texts and (Path(document["folder"]) / LOCK_NAME).is_file()
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if alive:
                yield path, document

    def _entries(self) -> list[ImageEntry]:
        found = (self.store.entry(path.stem) for path in sorted(self.store.images.glob("*.json")))
        return [entry for entry in found if entry is not None]

    def _image(self, entry: ImageEntry, users: tuple[str, ...]) -> Item:
        size = files.disk_used(self.store.images / f"{entry.id}.json")
        return Item(kind="image", name=entry.name, id=entry.id, size=size, used_by=users)

    def _parts(self, entries: list[ImageEntry], users: Mapping[str, tuple[str, ...]]) -> Iterator[Item]:
        for folder in self._folders("artifacts"):
            using = [entry for entry in entries if folder.name in entry.parts.values()]
            artifact = self.store.find_artifact(folder.name)
            yield Item(
                kind="part",
                name=artifact.name if artifact else "damaged",
                id=folder.name,
                size=files.disk_used(folder),
                used_by=_together(using, users),
            )

    def _warm_states(self, users: Mapping[str, tuple[str, ...]]) -> Iterator[Item]:
        """Yield each warm state; whoever uses its image uses it."""
        for folder in self._folders("warm"):
            try:
                described = json.loads((folder / "warm.json").read_text())
                name, image_id = described["name"], described["image_id"]
            except (OSError, ValueError, KeyError, TypeError):
                name, image_id = "damaged", ""
            size = files.disk_used(folder)
            yield Item(kind="warm", name=name, id=folder.name, size=size, used_by=users.get(image_id, ()))

    def _tools(self, entries: list[ImageEntry], users: Mapping[str, tuple[str, ...]]) -> Iterator[Item]:
        for folder in self._folders("tools"):
            using = [entry for entry in entries if folder.name in {entry.tools, *entry.interpreters}]
            name = "interpreter" if any(folder.name in entry.interpreters for entry in using) else "tools"
            size = files.disk_used(folder)
            yield Item(kind="tools", name=name, id=folder.name, size=size, used_by=_together(using, users))

    def _bytecode(self, entries: list[ImageEntry], users: Mapping[str, tuple[str, ...]]) -> Iterator[Item]:
        for path in self._files("bytecode"):
            using = [entry for entry in entries if path.name in entry.bytecode]
            size = files.disk_used(path)
            yield Item(
                kind="bytecode", name="wheel", id=path.name, size=size, used_by=_together(using, users)
            )

    def _downloads(self, entries: list[ImageEntry], users: Mapping[str, tuple[str, ...]]) -> Iterator[Item]:
        """Yield two items, downloads that images were made from and others; there are hundreds."""
        unused = set(self._unused_blobs(entries))
        used = [path for path in self._blobs() if path not in unused]
        for paths, who in ((used, _together(entries, users)), (sorted(unused), ())):
            if paths:
                size = sum(files.disk_used(path) for path in paths)
                yield Item(kind="downloads", name=f"{len(paths)} packages", id="", size=size, used_by=who)

    def _blobs(self) -> Iterator[Path]:
        for path in sorted(self.store.blobs.folder.glob("??/*")):
            if not path.name.startswith("."):
                yield path

    def _unused_blobs(self, entries: list[ImageEntry]) -> list[Path]:
        named = {blob for entry in entries for blob in entry.blobs}
        old = time.time() - GRACE
        return [path for path in self._blobs() if path.name not in named and path.stat().st_mtime < old]

    def _files(self, name: str) -> list[Path]:
        folder = self.store.folder / name
        return sorted(path for path in folder.glob("*") if path.is_file() and not files.is_temporary(path))

    def _folders(self, name: str) -> list[Path]:
        folder = self.store.folder / name
        return sorted(path for path in folder.glob("*") if path.is_dir() and not files.is_temporary(path))


def _together(entries: list[ImageEntry], users: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return everybody who uses one of `entries`, each once."""
    return tuple(dict.fromkeys(user for entry in entries for user in users.get(entry.id, ())))
