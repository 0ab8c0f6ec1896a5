"""Versions of a base checkpoint: folders v1, v2 ... that are whole at any moment, and which one is served."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lib.errors import NotFound, UserError
from lib.sam.checkpoints import sha256_of

logger = logging.getLogger(__name__)

ABOUT = "version.json"
SERVED = "served.json"
LOCK = ".lock"
PREPARED = ".new-"  # what the name of a folder begins with that is to become a version
DIGITS = 12  # of a sha256, as in `lib.sam.checkpoints.Checkpoint.version`


class StoreError(UserError):
    """The versions cannot be written: a full disk, a folder without permission (HTTP 507)."""

    status = 507


@dataclass(frozen=True)
class Version:
    """One version.

    Attributes
    ----------
    number : int
        0 is the base checkpoint itself.
    name : str
        Of the checkpoint, such as `biosam2_nano-v3`.
    path : Path
        Its folder.
    checkpoint : Path
        The file of weights, which is not there any more in a pruned version.
    about : dict
        What version.json says. Shared by all who ask: copy it before a change.
    """

    number: int
    name: str
    path: Path
    checkpoint: Path
    about: dict[str, Any] = field(hash=False)

    @property
    def parent(self) -> int:
        """The version that it was trained from."""
        parent = self.about.get("parent")
        # an earlier one always, so that whoever follows parents comes to the base
        return parent if isinstance(parent, int) and 0 <= parent < self.number else 0

    @property
    def is_pruned(self) -> bool:
        return bool(self.about.get("pruned"))


class Versions:
    """The versions of one base checkpoint.

    Several processes may use a folder at the same time: what is written appears by a rename, and writers
    wait for each other.

    Parameters
    ----------
    folder : Path
        Where they are: one folder for each base. It need not exist.
    base : Path
        File of the base checkpoint.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self._abouts: dict[int, tuple[tuple[int, int, int], dict[str, Any]]] = {}
        self._said = ""

    @classmethod
    def of(cls, root: Path, base: Path) -> Versions:
        """Those of a base checkpoint in the folder of the versions of all."""
        return cls(root / base.stem, base)

    def served_number(self) -> int:
        """The version that `served_path` is of."""
        return self._served()[0]

    def served_path(self) -> Path:
        """The checkpoint to serve now.

        Asked at every click: it reads one small file and looks whether another is there. A damaged note of
        what is served, or a version whose file is gone, does not stop the server: the nearest ancestor that
        is there takes its place, at last the base.
        """
        return self._served()[1]

    def all(self) -> list[Version]:
        """Every version that there ever was, also pruned ones, by number; without the base."""
        found = (self._read(number) for number in self._numbers())
        return [version for version in found if version]

    def get(self, number: int) -> Version:
        """A version by its number; 0 is the base.

        Raises
        ------
        NotFound
        """
        if number == 0:
            about = {"number": 0, "name": self.base.stem, "parent": None, "state": "base"}
            return Version(0, self.base.stem, self.base.parent, self.base, about)
        version = self._read(number) if number > 0 else None
        if version is None:
            known = ", ".join(str(known) for known in [0, *self._numbers()[-20:]])
            raise NotFound(f"version {number} is not one of {known}.")
        return version

    def add(self, prepared: Path, about: dict[str, Any]) -> Version:
        """Make a prepared folder the next version; it is not served by that.

        Parameters
        ----------
        prepared : Path
            Folder with one checkpoint (safetensors, of any name) and what else is to be kept, on the same
            disk as `folder`; named `.new-...` there, so that `clean` finds it when this is interrupted.
        about : dict
            For version.json. Number, name, checkpoint (first digits of its sha256) and, where left out, the
            time of creation are filled in here.

        Raises
        ------
        UserError
            If there is not one checkpoint in the folder.
        StoreError
            If it cannot be stored. There is no new version then.
        """
        with self._writing("a new version"):
            number = 1 + max([*self._numbers(), self._chosen()])
            name = self._name(number)
            found = list(prepared.glob("*.safetensors"))
            if len(found) != 1:
                raise UserError(f"folder {prepared.name} must hold one checkpoint, not {len(found)}.")
            checkpoint = prepared / f"{name}.safetensors"
            os.rename(found[0], checkpoint)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            filled = {"number": number, "name": name, "checkpoint": sha256_of(checkpoint)[:DIGITS]}
            _write(prepared / ABOUT, {"created": now, **about, **filled})
            for folder, _, files in os.walk(prepared, topdown=False):
                for file in files:
                    _to_disk(Path(folder, file))
                _to_disk(Path(folder))
            os.rename(prepared, self.folder / f"v{number}")
            _to_disk(self.folder)
        logger.info("%s is stored", name)
        return self.get(number)

    def serve(self, number: int) -> None:
        """Have a version served from the next request on, by every server that uses this folder.

        Raises
        ------
        NotFound
            If there is no such version, or its checkpoint is gone.
        UserError
            If it was pruned, or its checkpoint is not what was stored.
        StoreError
            If that cannot be written down. What was served goes on being served.
        """
        with self._writing(f"version {number}"):
            self._serve(number)

    def rollback(self) -> int:
        """Serve the version again that the served one was trained from, and return its number.

        Raises
        ------
        UserError
            If the base is served, or as `serve` does.
        """
        with self._writing("the version before"):
            served = self.served_number()
            if served == 0:
                raise UserError(f"{self.base.stem} itself is served: there is no version before it.")
            parent = self.get(served).parent
            self._serve(parent)
        return parent

    def prune(self, keep: int) -> list[int]:
        """Remove the checkpoints of all but the newest versions; what was measured stays.

        Never that of the served version, nor of its parent, to which one may want to go back.

        Parameters
        ----------
        keep : int
            How many versions keep their checkpoint, at least 1.

        Returns
        -------
        list of int
            The versions that have lost their checkpoint.

        Raises
        ------
        UserError
            If `keep` is less than 1.
        StoreError
        """
        if keep < 1:
            raise UserError(f"the number of versions to keep must be at least 1, not {keep}.")
        pruned = []
        with self._writing("the removal of old versions"):
            served = self.served_number()
            needed = {served, self.get(served).parent}
            there = [version for version in self.all() if not version.is_pruned]
            for version in there[:-keep]:
                if version.number not in needed:
                    # first of all room: on a full disk nothing can be written before
                    version.checkpoint.unlink(missing_ok=True)
                    _write(version.path / ABOUT, {**version.about, "pruned": True})
                    pruned.append(version.number)
        return pruned

    def clean(self) -> None:
        """Remove what interrupted trainings have left of versions that they were preparing.

        Only for the start of a training: what another one prepares at this moment would go too.

        Raises
        ------
        StoreError
        """
        with self._writing("the removal of what is left over"):
            for left in self.folder.glob(f"{PREPARED}*"):
                logger.info("removing %s, which an interrupted training has left", left.name)
                shutil.rmtree(left)

    def _serve(self, number: int) -> None:
        version = self.get(number)
        if version.is_pruned:
            raise UserError(f"version {number} was pruned: its checkpoint is gone.")
        if not version.checkpoint.is_file():
            raise NotFound(f"version {number} has no checkpoint: {version.checkpoint.name} is not there.")
        if number:
            found, stored = sha256_of(version.checkpoint)[:DIGITS], str(version.about.get("checkpoint"))
            if found != stored:
                raise UserError(f"checkpoint of version {number} is damaged: {found}, not {stored[:DIGITS]}.")
        _write(self.folder / SERVED, {"number": number})
        logger.info("%s is to be served from now on", version.name)

    def _served(self) -> tuple[int, Path]:
        number = chosen = self._chosen()
        while number and not os.path.isfile(self._checkpoint(number)):
            version = self._read(number)
            number = version.parent if version else 0
        if number != chosen:
            self._say_once(f"{self._name(chosen)} is gone; {self._name(number)} is served in its place")
        return number, self._checkpoint(number)

    def _chosen(self) -> int:
        """The number in served.json."""
        number: Any = None
        try:
            number = json.loads((self.folder / SERVED).read_bytes())["number"]
        except (FileNotFoundError, NotADirectoryError):
            number = 0
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.debug("%s cannot be read: %s", SERVED, error)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            self._say_once(f"{self.folder / SERVED} is damaged: {self.base.stem} itself is served")
            return 0
        return number

    def _say_once(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            logger.error("%s.", sentence)

    def _name(self, number: int) -> str:
        return f"{self.base.stem}-v{number}" if number else self.base.stem

    def _checkpoint(self, number: int) -> Path:
        return self.folder / f"v{number}" / f"{self._name(number)}.safetensors" if number else self.base

    def _numbers(self) -> list[int]:
        """Of all version folders, also of damaged ones: no number is given twice."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(name[1:]) for name in names if re.fullmatch("v[1-9][0-9]{0,8}", name))

    def _read(self, number: int) -> Version | None:
        """A version from its folder, None where that cannot be read."""
        path = self.folder / f"v{number}"
        try:
            stat = (path / ABOUT).stat()
            stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
            known = self._abouts.get(number)
            if known is None or known[0] != stamp:
                about = json.loads((path / ABOUT).read_bytes())
                if not isinstance(about, dict):
                    raise ValueError("not an object")
                self._abouts[number] = known = (stamp, about)
        except (OSError, ValueError) as error:
            logger.debug("version %d cannot be read: %s", number, error)
            return None
        return Version(number, self._name(number), path, self._checkpoint(number), known[1])

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """One writer at a time; a disk that does not take it becomes a sentence."""
        try:
            with locked(self.folder / LOCK):
                yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(f"{what} of {self.base.stem} could not be written ({reason}).") from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other thread or process is in here with the same file; a killed one lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, data: dict[str, Any]) -> None:
    """Write JSON; at any moment the old or the new file is there, whole."""
    text = json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False)
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        _to_disk(part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


def _plain(value: Any) -> Any:
    """What JSON can hold: a Dice that could not be measured (NaN) is null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)  # numpy's numbers, paths


def _to_disk(path: Path) -> None:
    """Have a file or the names in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
