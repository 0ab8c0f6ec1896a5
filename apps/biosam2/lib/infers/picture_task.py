"""What is asked about single pictures that clients have sent: a mask for prompts, what is known on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib import work
from lib.imaging import runs
from lib.infers.image_task import Stopwatch
from lib.prompts.dialects import one_picture
from lib.sam.model import Model, ModelSlot
from lib.sam.segment import segment
from lib.settings import Settings
from lib.streams.pictures import Picture, Pictures


class PictureTask:
    """Answers about pictures, which clients name by what `add` has told them.

    Parameters
    ----------
    slot : ModelSlot
        The served model; the tasks share it, and with it the embeddings.
    settings : Settings
    pictures : Pictures
    """

    def __init__(self, slot: ModelSlot, settings: Settings, pictures: Pictures) -> None:
        self.slot, self.settings, self.pictures = slot, settings, pictures

    def add(self, data: bytes) -> dict[str, Any]:
        """Keep a picture for the questions to come.

        Returns
        -------
        dict
            `picture`: its name; `width`, `height` in pixels.

        Raises
        ------
        Unprocessable
            As `lib.imaging.picture.decode` does.
        """
        picture = self.pictures.add(data)
        return {"picture": picture.id, "width": picture.size[0], "height": picture.size[1]}

    def mask(self, picture: Picture, fields: Mapping[str, Any]) -> dict[str, Any]:
        """One object on a picture.

        Parameters
        ----------
        picture : Picture
        fields : mapping
            See `lib.prompts.dialects.one_picture`.

        Returns
        -------
        dict
            `mask` (`lib.imaging.runs`), `score`, `cached`, `checkpoint`, `latencies`.

        Raises
        ------
        UserError
            If a field is wrong.
        Cancelled
            If nobody wants the answer any more.
        """
        watch = Stopwatch()
        prompts = one_picture.parse(fields, picture.size)
        watch.lap("pre")
        work.stop_if_cancelled()
        model = self.slot.get()
        # a click takes several steps of the network; it waits for its turn once, not before each of them
        with model.running():
            found = segment(model, picture.pixels, prompts, self.settings.zoom)
        work.report(1, 1)
        watch.lap("infer")
        mask = runs.encode(found.mask)
        watch.lap("write")
        return {
            "mask": mask,
            "score": round(found.score, 4),
            "cached": found.cached,
            "checkpoint": named(model),
            "latencies": watch.total(),
        }


def named(model: Model) -> dict[str, str]:
    """Which weights gave an answer."""
    return {"name": model.checkpoint.name, "version": model.checkpoint.version}
