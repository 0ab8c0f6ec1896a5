"""What is asked about single pictures that clients have sent: a mask for prompts, what is known on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib import work
from lib.bank.pipeline import prelabel
from lib.errors import NotFound, UserError
from lib.imaging import runs
from lib.infers.auto_task import AutoTask
from lib.infers.task import Stopwatch, named
from lib.prompts.dialects import one_picture
from lib.prompts.dialects.fields import items, number, shown
from lib.sam.segment import segment
from lib.streams.pictures import Picture, Pictures


class PictureTask:
    """Answers about pictures, which clients name by what `add` has told them.

    Parameters
    ----------
    auto : AutoTask
        What finds structures without prompts; its model is the one that is asked here as well.
    pictures : Pictures
    """

    def __init__(self, auto: AutoTask, pictures: Pictures) -> None:
        self.auto, self.pictures = auto, pictures
        self.slot, self.settings = auto.slot, auto.settings

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

    def labels(self) -> list[str]:
        """The structures that `detect` may find.

        Raises
        ------
        NotFound, Unavailable
            See `detect`; if the labels are in an archive that does not answer.
        """
        self._check_offered()
        self.auto.bank.refresh()
        return list(self.auto.bank.structures())

    def _check_offered(self) -> None:
        if "biosam2_auto" not in self.settings.models:
            raise NotFound(f'model "biosam2_auto" is not one of {", ".join(self.settings.models)}.')

    def detect(self, picture: Picture, fields: Any) -> dict[str, Any]:
        """The structures of the submitted labels on a picture, as `biosam2_auto` finds them.

        Parameters
        ----------
        picture : Picture
        fields : mapping or None
            `labels`: names of those to look for, all if left out; `threshold`: the least score, 0 to 1.

        Returns
        -------
        dict
            `found`: for each that is there `label`, `index`, `score` (predicted IoU) and `mask`
            (`lib.imaging.runs`); no two masks have a pixel in common.

        Raises
        ------
        NotFound
            If this server does not offer `biosam2_auto`.
        Conflict
            If no label has been submitted yet.
        UserError
            If a field is wrong, or a label is none of the submitted ones.
        Cancelled
            If nobody wants the answer any more.
        """
        self._check_offered()
        labels, threshold = _asked(fields)
        structures = self.auto.asked(labels)
        work.stop_if_cancelled()
        found = prelabel(
            self.slot.get(),
            lambda _: picture.pixels,
            1,
            self.auto.bank,
            self.auto.memories,
            only=structures.__contains__,
            progress=work.report,
            cancelled=work.is_cancelled,
        )
        answers = []
        for name, (one,) in found.found.items():
            mask = found.labels[0] == found.indexes[name]
            if mask.any() and one.score >= threshold:
                answers.append(
                    {
                        "label": name,
                        "index": found.indexes[name],
                        "score": round(one.score, 4),
                        "mask": runs.encode(mask),
                    }
                )
        return {"found": answers}


def _asked(fields: Any) -> tuple[list[Any], float]:
    """The labels and the threshold of a request."""
    fields = {} if fields is None else fields
    if not isinstance(fields, Mapping):
        raise UserError(
            f'The request must be an object such as {{"labels": ["liver"]}}, not {shown(fields)}.'
        )
    for key in fields:
        if key not in ("labels", "threshold"):
            raise UserError(f"The request has the unknown field {shown(key)}; it has labels and threshold.")
    given = fields.get("threshold")
    threshold = 0.0 if given is None else number(given, "threshold")
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must be from 0 to 1, not {shown(given)}.")
    return items(fields.get("labels"), "labels"), threshold
