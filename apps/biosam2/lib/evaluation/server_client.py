"""What a person's program asks of the server: MONAI Label's own client, the one of Slicer's plugin.

Stacks are (K, A, B), slices along the volume's own axis; on the way they become voxel indices (i, j, k) and
label maps on the image's grid.
"""

from __future__ import annotations

import http.client
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import requests
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from lib.activelearning.scores import INFO
from lib.evaluation.annotator import Click
from lib.evaluation.study import Study
from lib.imaging.volume import load_volume
from lib.prompts.dialects import runs

AUTO = "biosam2_auto"
CONFLICT = 409  # no image has a final label yet
UNAVAILABLE = 503  # more requests than the server takes at once: ask again
PATIENCE = 300.0  # seconds for a server that is starting again
# what a server that has been killed, or is not there yet, gives
GONE = (ConnectionError, http.client.HTTPException, TimeoutError, OSError)
_STATUS = re.compile(r"Status: (\d{3})")

Answer = TypeVar("Answer")


class Refused(Exception):
    """The server has answered, but not with what was asked for; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One annotator's connection.

    Parameters
    ----------
    address : str
    name : str
        Who this is to the server (`client_id`).
    folder : Path
        Where files are put on their way.
    patience : float
        Seconds to wait for a server that is not there; 0 for none.

    Attributes
    ----------
    seconds : float
        Spent waiting for answers up to now.
    """

    def __init__(self, address: str, name: str, folder: Path, patience: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address, self.name, self.folder = address, name, folder
        self.patience, self.seconds = patience, 0.0
        self._client = MONAILabelClient(address, str(folder), client_id=name)
        self._auto: bool | None = None

    def next_case(self, strategy: str) -> str | None:
        """The image to annotate next; None where there is none left."""
        return self._ask(lambda: self._client.next_sample(strategy, {})).get("id")

    def pre_label(self, study: Study, names: Mapping[int, str]) -> dict[str, np.ndarray] | None:
        """Automatic masks of an image of the datastore, by structure; None while nothing is labelled."""
        return self._automatic(study, names, study.pair.name, None)

    def segment(self, study: Study, names: Mapping[int, str]) -> dict[str, np.ndarray] | None:
        """The same of an image that the server has not got: its file is sent along."""
        return self._automatic(study, names, "", str(study.pair.image))

    def infer(
        self, model: str, image: str, params: dict[str, Any], file: str | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A label map (I, J, K), and what is said beside it."""
        path, said = self._ask(lambda: self._client.infer(model, image, dict(params), file=file))
        try:
            return np.asarray(load_volume(Path(path)).voxels), said
        finally:
            os.unlink(path)

    def submit(self, study: Study, labels: np.ndarray, names: Mapping[int, str]) -> None:
        """A final label map (I, J, K), with the names of all its structures, as Slicer's plugin sends it."""
        info = [{"name": name, "idx": value} for value, name in names.items()]
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            file = Path(folder) / f"{study.pair.name}.nii.gz"
            nib.save(nib.Nifti1Image(labels, study.volume.affine), file)
            self._ask(
                lambda: self._client.save_label(study.pair.name, str(file), "final", {"label_info": info})
            )

    def final_labels(self) -> list[str]:
        """Images that have a final label."""
        objects = self._ask(self._client.datastore)["objects"]
        return sorted(image for image, entry in objects.items() if "final" in entry.get("labels", {}))

    def final_label(self, image: str) -> np.ndarray:
        """The final label of an image as the server has it, (I, J, K)."""
        path = self._ask(lambda: self._client.download_label(image, "final"))
        try:
            return np.asarray(load_volume(Path(path)).voxels)
        finally:
            os.unlink(path)

    def score_keys(self) -> set[str]:
        """Which models and labels scores of images without a label were made with; "" for no score.

        As many as are needed to see that they are not all of one kind.
        """
        objects = self._ask(self._client.datastore)["objects"]
        found: set[str] = set()
        # the list of images leaves out what strategies know of them
        for image in (i for i, entry in objects.items() if "final" not in entry.get("labels", {})):
            info = self._ask(lambda image=image: self._info(image))  # type: ignore[misc]
            found.add(str((info.get(INFO) or {}).get("key", "")))
            if "" in found or len(found) > 1:
                break
        return found

    def train(self, settings: Mapping[str, str], wait: float = 2.0) -> None:
        """Have the server train, and wait for the end.

        Raises
        ------
        Refused
            If the training fails.
        """
        self._ask(lambda: self._client.train_start("biosam2", dict(settings)))
        while True:
            time.sleep(wait)
            task = self._ask(lambda: self._client.train_status(False))
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                break
        if task["status"] != "DONE":
            raise Refused(500, "the training failed: " + " ".join(task.get("details", []))[-500:])

    def _info(self, image: str) -> dict[str, Any]:
        answer = requests.get(f"{self.address}/datastore/image/info", params={"image": image}, timeout=60)
        if not answer.ok:
            raise Refused(answer.status_code, answer.text)
        return answer.json()

    def offers_auto(self) -> bool:
        """Whether the server segments without prompts; `--conf models` may leave that out."""
        return AUTO in self._ask(self._client.info)["models"]

    def _automatic(
        self, study: Study, names: Mapping[int, str], image: str, file: str | None
    ) -> dict[str, np.ndarray] | None:
        if self._auto is None:
            self._auto = self.offers_auto()
        if not self._auto:
            return None
        try:
            labels, said = self.infer(AUTO, image, {"result_extension": ".nii.gz"}, file)
        except Refused as refused:
            if refused.status == CONFLICT:
                return None
            raise
        given = said.get("label_names", {})
        axis = study.volume.slice_axis
        return {
            name: np.moveaxis(labels == given[name], axis, 0)
            if name in given
            else np.zeros_like(np.moveaxis(labels, axis, 0), bool)
            for name in names.values()
        }

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Ask; where the server is away, or too busy, ask again for as long as `patience` lasts."""
        end = time.monotonic() + self.patience
        while True:
            begin = time.monotonic()
            try:
                answer = question()
                self.seconds += time.monotonic() - begin
                return answer
            except MONAILabelClientException as error:
                refused = _refused(error)
                if refused.status != UNAVAILABLE or time.monotonic() > end:
                    raise refused from None
            except GONE:
                if time.monotonic() > end:
                    raise
            time.sleep(0.5)


class Case:
    """An image of the datastore, as `lib.evaluation.annotator` asks about it.

    Parameters
    ----------
    client : Client
    study : Study
    """

    def __init__(self, client: Client, study: Study) -> None:
        self.client, self.study = client, study
        self.axis = study.volume.slice_axis

    def on_slice(
        self, structure: str, clicks: Sequence[Click], positive: Sequence[bool], mask: np.ndarray | None
    ) -> np.ndarray:
        k = clicks[0][0]
        params = {"slice": k, "slice_axis": self.axis, **self._clicks(structure, clicks, positive)}
        if mask is not None:
            params["mask"] = runs(mask)
        labels, _ = self.client.infer("biosam2_2d", self.study.pair.name, params)
        return np.take(labels, k, self.axis) > 0

    def through(
        self,
        structure: str,
        clicks: Sequence[Click],
        positive: Sequence[bool],
        mask: np.ndarray | None = None,
        slices: tuple[int, int] | None = None,
    ) -> np.ndarray:
        params = {"slice_axis": self.axis, **self._clicks(structure, clicks, positive)}
        if mask is not None:
            params["mask"] = runs(np.ascontiguousarray(np.moveaxis(mask, 0, self.axis)))
        if slices is not None:
            params["slice_range"] = list(slices)
        labels, _ = self.client.infer("biosam2_3d", self.study.pair.name, params)
        return np.moveaxis(labels > 0, self.axis, 0)

    def _clicks(self, structure: str, clicks: Sequence[Click], positive: Sequence[bool]) -> dict[str, Any]:
        points: dict[bool, list[list[int]]] = {True: [], False: []}
        for (k, a, b), inside in zip(clicks, positive, strict=True):
            index = [a, b]
            index.insert(self.axis, k)
            points[bool(inside)].append(index)
        return {
            "label": structure,
            "foreground": points[True],
            "background": points[False],
            "result_extension": ".nii.gz",
        }


def _refused(error: MONAILabelClientException) -> Refused:
    """What the server said; MONAI Label's client has the status in its text alone."""
    text = str(getattr(error, "msg", error))
    found = _STATUS.search(text)
    return Refused(int(found[1]) if found else 500, text)


@contextmanager
def seconds_of(client: Client) -> Iterator[list[float]]:
    """The seconds that a client waits for answers inside of a `with`, as the only entry of a list."""
    begin, found = client.seconds, [0.0]
    yield found
    found[0] = client.seconds - begin
