"""Open volumes kept in memory, so that a second click does not read the file again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock

from lib.errors import NotFound
from lib.imaging.volume import Volume, load_volume

GIB = 1 << 30
DEFAULT_BYTES = 2 * GIB
# Headers whose voxels lie in another file of the same stem: that one may change alone.
DETACHED = (".nhdr", ".mhd")

Key = tuple[Path, tuple[int, int, int]]


class VolumeStore:
    """A thread-safe store of volumes, least recently used first out, bounded in bytes.

    Parameters
    ----------
    max_bytes : int
        Bound on the voxels kept. A single volume over it is still kept, alone.
    load : callable, optional
        What reads a path; `load_volume` when not given.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES, load: Callable[[Path], Volume] = load_volume) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes {max_bytes} is negative")
        self.max_bytes = max_bytes
        self._load = load
        self._lock = Lock()
        self._volumes: OrderedDict[Key, Volume] = OrderedDict()
        self._loading: dict[Key, Future[Volume]] = {}

    def load(self, path: Path | str) -> Volume:
        """The volume at a path, read only if it is not here or has changed on disk.

        Parameters
        ----------
        path : Path or str
            As for `load_volume`.

        Returns
        -------
        Volume
            Shared with every other caller, hence read-only. Calls at the same time for the same path
            wait for one read.

        Raises
        ------
        NotFound, Unprocessable
            As `load_volume` does; failures are not kept, the next call tries again.
        """
        path = Path(path)
        key = (path.resolve(), signature(path))
        with self._lock:
            volume = self._volumes.get(key)
            if volume is not None:
                self._volumes.move_to_end(key)
                return volume
            future = self._loading.get(key)
            mine = future is None
            if future is None:
                future = self._loading[key] = Future()
        if mine:
            self._fill(key, path, future)
        return future.result()

    def forget(self) -> None:
        """Let go of every volume; those in use stay alive with their users."""
        with self._lock:
            self._volumes.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of voxels kept now."""
        with self._lock:
            return self._total()

    def __len__(self) -> int:
        with self._lock:
            return len(self._volumes)

    def _fill(self, key: Key, path: Path, future: Future[Volume]) -> None:
        try:
            volume = self._load(path)
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            future.set_exception(error)
            return
        with self._lock:
            del self._loading[key]
            # An older state of the same file will never be asked for again.
            for old in [other for other in self._volumes if other[0] == key[0]]:
                del self._volumes[old]
            self._volumes[key] = volume
            while len(self._volumes) > 1 and self._total() > self.max_bytes:
                self._volumes.popitem(last=False)
        future.set_result(volume)

    def _total(self) -> int:
        return sum(volume.nbytes for volume in self._volumes.values())


def signature(path: Path) -> tuple[int, int, int]:
    """What changes when the content of a path does: (newest mtime in ns, bytes, number of files).

    Parameters
    ----------
    path : Path
        A file, or a folder, whose files and own mtime are counted.

    Raises
    ------
    NotFound
        If there is nothing at `path`.
    """
    try:
        own = path.stat()
        files: Iterable[Path] = ()
        if path.is_dir():
            files = path.iterdir()
        elif path.suffix.lower() in DETACHED:
            files = (other for other in path.parent.iterdir() if other.name.startswith(path.stem + "."))
        stats = [own, *(file.stat() for file in files)]
    except FileNotFoundError:
        raise NotFound(f"image '{path.name}' does not exist") from None
    return max(s.st_mtime_ns for s in stats), sum(s.st_size for s in stats), len(stats)


_default = VolumeStore()


def load_cached(path: Path | str) -> Volume:
    """`load_volume` through the store that the whole server shares."""
    return _default.load(path)
