"""Objects followed over pictures that clients send one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib import work
from lib.errors import UserError
from lib.imaging import runs
from lib.prompts.dialects import MAX_OBJECTS, one_picture
from lib.prompts.dialects.fields import items, shown
from lib.sam.model import ModelSlot
from lib.sam.stream import Seen, Stream
from lib.settings import Settings
from lib.streams.pictures import Picture, Pictures
from lib.streams.tracks import Track, Tracks


class TrackTask:
    """Begins tracks, and takes them one picture further.

    Parameters
    ----------
    slot : ModelSlot
        The served model; the tasks share it, and with it the embeddings.
    settings : Settings
    pictures : Pictures
    tracks : Tracks
    """

    def __init__(
        self, slot: ModelSlot, settings: Settings, pictures: Pictures, tracks: Tracks[Stream]
    ) -> None:
        self.slot, self.settings, self.pictures, self.tracks = slot, settings, pictures, tracks

    def begin(self, owner: str, fields: Any) -> dict[str, Any]:
        """One track for each object that is prompted on a picture.

        Parameters
        ----------
        owner : str
            The user who asks.
        fields : mapping
            `picture`: its id; `objects`: what each is prompted by (`lib.prompts.dialects.one_picture`).

        Returns
        -------
        dict
            `tracks`, in the order of the objects: `track`, its id; `mask` (`lib.imaging.runs`); `score`.

        Raises
        ------
        NotFound
            If the picture has expired or never was.
        UserError
            If a field is wrong. Then no track has begun.
        Cancelled
            If nobody wants the answer any more. Then no track has begun.
        """
        fields = _checked(fields, ("picture", "objects"))
        picture = self.pictures.get(fields.get("picture"))
        objects = items(fields.get("objects"), "objects", limit=MAX_OBJECTS)
        if not objects:
            raise UserError('objects is empty: send one at least, such as {"box": [10, 20, 30, 40]}.')
        prompts = [one_picture.parse(one, picture.size, f"objects[{n}].") for n, one in enumerate(objects)]
        model, streams = self.slot.get(), []
        for one in prompts:
            work.stop_if_cancelled()
            streams.append(Stream(model, picture.pixels, one, self.settings.zoom))
            work.report(len(streams), len(prompts))
        tracks = [self.tracks.add(owner, stream, picture.id) for stream in streams]
        return {"tracks": [_begun(track) for track in tracks]}

    def step(self, owner: str, fields: Any) -> dict[str, Any]:
        """Take tracks to a picture.

        The same picture once more takes them no further, and answers the same: an answer that got lost can be
        asked for again, also where only some of the tracks had been taken along.

        Parameters
        ----------
        owner : str
        fields : mapping
            `picture`: its id; `tracks`: their ids.

        Returns
        -------
        dict
            `tracks`, in the order of the request: `track`; `mask`, None where the object is lost (it may be
            found again on a later picture); `score`, 0 there.

        Raises
        ------
        NotFound
            If the picture or a track has expired or never was. Then none has been taken further.
        UserError
            If a field is wrong, or the picture has another size. Then none has been taken further.
        Cancelled
            If nobody wants the answer any more.
        """
        fields = _checked(fields, ("picture", "tracks"))
        picture = self.pictures.get(fields.get("picture"))
        ids = items(fields.get("tracks"), "tracks", limit=MAX_OBJECTS)
        if not ids:
            raise UserError("tracks is empty: send the id of one at least.")
        tracks = [self.tracks.get(id, owner) for id in ids]
        for track in tracks:
            _check_size(track, picture)
        model = self.slot.get()
        answers = []
        with self.tracks.held(tracks):
            for track in tracks:
                work.stop_if_cancelled()
                if track.picture != picture.id:
                    track.stream.step(model, picture.pixels)
                    track.picture = picture.id
                answers.append(_described(track))
                work.report(len(answers), len(tracks))
        return {"tracks": answers}

    def end(self, owner: str, id: str) -> None:
        """Let go of a track.

        Raises
        ------
        NotFound
            If it has expired or never was.
        """
        self.tracks.remove(id, owner)


def _checked(fields: Any, known: tuple[str, str]) -> Mapping[str, Any]:
    if not isinstance(fields, Mapping):
        raise UserError(f"The request must be an object with {' and '.join(known)}, not {shown(fields)}.")
    for key in fields:
        if key not in known:
            raise UserError(f"The request has the unknown field {shown(key)}; it has {' and '.join(known)}.")
    return fields


def _check_size(track: Track[Stream], picture: Picture) -> None:
    if track.stream.shape != picture.size:
        first, now = (f"{size[0]} x {size[1]}" for size in (track.stream.shape, picture.size))
        raise UserError(f'picture has {now} pixels, and those before of track "{track.id}" have {first}.')


def _begun(track: Track[Stream]) -> dict[str, Any]:
    seen = track.stream.seen
    return {"track": track.id, "mask": runs.encode(seen.mask), "score": round(seen.score, 4)}


def _described(track: Track[Stream]) -> dict[str, Any]:
    seen: Seen = track.stream.seen
    lost = not seen.mask.any()
    return {
        "track": track.id,
        "mask": None if lost else runs.encode(seen.mask),
        "score": 0.0 if lost else round(seen.score, 4),
    }
