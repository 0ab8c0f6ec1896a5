"""The annotation loop against a running server: next case, pre-label, clicks, submit, train, hold-out.

Everything that becomes of it is in three tables in the folder of the simulation, a row as soon as it is
known: `cases.csv` (a structure of a case, and what it took), `holdout.csv` (a structure of an unseen case
after so many labels) and `submitted.csv` (what was sent, by whom). A run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lib.errors import UserError
from lib.evaluation.annotator import Annotator, Work
from lib.evaluation.datasets import Pair
from lib.evaluation.metrics import dice
from lib.evaluation.server_client import Case, Client, seconds_of
from lib.evaluation.simulate import generator
from lib.evaluation.study import Structure, Study, read_study
from lib.evaluation.table import Row, Table
from lib.trainers.finetune.cases import patient_of

RUN = ("set", "strategy", "repeat")
CASES = (*RUN, "image", "structure", "way")
CASE_FIGURES = ("labels", "annotator", "present", "clicks", "dice_start", "dice_end", "seconds")
HOLDOUT = (*RUN, "labels", "image", "structure")
HOLDOUT_FIGURES = ("present", "dice", "seconds")
SUBMITTED = (*RUN, "image", "annotator")
SUBMITTED_FIGURES = ("labels", "digest")

PRE_LABEL, NOTHING = "pre-label", "nothing"
"""Ways to begin a structure."""

Clicks = Literal["both", "pre-label", "none"]
Submit = Literal["clicks", "truth"]
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A labelled folder, read: studies by image id, and the structures of all of them by value."""

    name: str
    studies: dict[str, Study]
    structures: dict[int, str]

    @classmethod
    def read(cls, name: str, pairs: Iterable[Pair], wanted: Iterable[str] = ()) -> LabelledSet:
        """Read images and labels.

        Raises
        ------
        UserError
            If one cannot be read, an image is not a file (the server's folder has files), or none of the
            structures is there.
        """
        studies: dict[str, Study] = {}
        found: dict[int, str] = {}
        for pair in pairs:
            if pair.image.is_dir():
                raise UserError(f"image {pair.name} is a folder: simulations take files.")
            study = studies[pair.name] = read_study(pair)
            names = {s.value: s.name for s in study.structures()} if study.labels.any() else {}
            found |= {**pair.names, **names}
        kept = {value: found[value] for value in sorted(found) if found[value] in wanted or not wanted}
        if not kept:
            raise UserError(f"no structure is called {', '.join(wanted)}.")
        return cls(name, studies, kept)

    def split(self, hold_out: int, seed: int, pool: int | None = None) -> tuple[list[str], list[str]]:
        """Images to annotate and images that the server never gets, other ones for each seed.

        All scans of a patient are on one side.
        """
        by_patient: dict[str, list[str]] = {}
        for image in self.studies:
            by_patient.setdefault(patient_of(image, {}), []).append(image)
        rng = generator(seed, self.name, "hold-out")
        patients = [list(by_patient)[n] for n in rng.permutation(len(by_patient))]
        held: list[str] = []
        while patients and len(held) < hold_out:
            held += by_patient[patients.pop()]
        left = [image for patient in patients for image in by_patient[patient]]
        if not left or not held:
            raise UserError(f"{self.name} has {len(self.studies)} images: too few to hold {hold_out} out.")
        return left[:pool], sorted(held)[:hold_out]


@dataclass(frozen=True)
class Options:
    """How it is played.

    Attributes
    ----------
    person : Annotator
        Who corrects a pre-label.
    beginner : Annotator
        Who begins from nothing: another rule may need fewer clicks.
    clicks : "both", "pre-label" or "none"
        Which ways are played: both for each case, that of a person with this server, or neither.
    submit : "clicks" or "truth"
        What is submitted: the mask that the clicks gave, or the reference.
    most : int or None
        Cases to annotate; None for all.
    every : int
        Labels between two looks at the hold-out; 0 for none. There is one after the first label, too.
    train_every : int
        Labels between two trainings that are asked for; 0 for none.
    training : mapping
        Settings of a training.
    settle : float
        Seconds to wait, at most, for the server's scores to be of the newest labels before the next case is
        asked for. A person takes longer than the server; a simulated one would outrun it.
    """

    person: Annotator = field(default_factory=Annotator)
    beginner: Annotator = field(default_factory=Annotator)
    clicks: Clicks = "both"
    submit: Submit = "clicks"
    most: int | None = None
    every: int = 1
    train_every: int = 0
    training: Mapping[str, str] = field(default_factory=dict)
    settle: float = 60.0

    def __post_init__(self) -> None:
        if self.clicks == "none" and self.submit != "truth":
            raise UserError("without clicks there is nothing to submit but the truth.")


class Tables:
    """The tables of a simulation."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cases = Table(folder / "cases.csv", (*CASES, *CASE_FIGURES), CASES)
        self.holdout = Table(folder / "holdout.csv", (*HOLDOUT, *HOLDOUT_FIGURES), HOLDOUT)
        self.submitted = Table(folder / "submitted.csv", (*SUBMITTED, *SUBMITTED_FIGURES), SUBMITTED)


class Run:
    """One strategy on one split, from the first label to the last; several annotators may play it.

    Parameters
    ----------
    data : LabelledSet
    strategy : str
    repeat : int
    hold_out : list of str
        Images that the server does not have.
    options : Options
    tables : Tables
    say : callable
        Gets a line whenever something is done.
    """

    def __init__(
        self,
        data: LabelledSet,
        strategy: str,
        repeat: int,
        hold_out: list[str],
        options: Options,
        tables: Tables,
        say: Say,
    ) -> None:
        self.data, self.hold_out, self.options, self.tables, self.say = data, hold_out, options, tables, say
        self.strategy = strategy
        self.name: Row = {"set": data.name, "strategy": strategy, "repeat": str(repeat)}
        self.labelled = 0
        self._lock = threading.Lock()
        self._scores: set[str] = set()

    @property
    def submissions(self) -> list[Row]:
        """What was submitted in this run."""
        rows = list(self.tables.submitted.rows.values())
        return [row for row in rows if all(row[key] == self.name[key] for key in RUN)]

    def go_on(self, client: Client) -> None:
        """Count what the server has already.

        Raises
        ------
        UserError
            If it has labels that this run has not submitted.
        """
        there = set(client.final_labels())
        foreign = there - {row["image"] for row in self.submissions}
        if foreign:
            raise UserError(f"the server has a label of {min(foreign)} already: begin with a fresh one.")
        self.labelled = len(there)
        if not client.offers_auto():
            self.say("the server has no biosam2_auto: there are no pre-labels, and the hold-out stays empty")

    def play(self, client: Client, until: float | None = None) -> None:
        """Annotate case after case, and look at the hold-out in between.

        Parameters
        ----------
        client : Client
        until : float, optional
            `time.monotonic()` after which no further case is asked for.
        """
        self.look(client)
        while self.step(client, until):
            if self.options.train_every and self.labelled % self.options.train_every == 0:
                client.train(self.options.training)
            self.look(client)

    def step(self, client: Client, until: float | None = None) -> bool:
        """Annotate one case; False where there is none left, or no time."""
        most = self.options.most
        if (until is not None and time.monotonic() > until) or (most is not None and self.labelled >= most):
            return False
        self._settle(client)
        image = client.next_case(self.strategy)
        if image is None:
            return False
        if image not in self.data.studies or image in self.hold_out:
            raise UserError(f'the server offers "{image}", which is not one of the images to annotate.')
        study = self.data.studies[image]
        labels = self._annotate(client, study)
        names = {value: name for value, name in self.data.structures.items()}
        with self._lock:
            number = self.labelled + 1
        row = {**self.name, "image": image, "annotator": client.name}
        # written first: who is killed in between finds the image without a label, and does it again
        self.tables.submitted.add({**row, "labels": str(number), "digest": digest(labels)})
        client.submit(study, labels, names)
        with self._lock:
            self.labelled += 1
        self.say(f"{self.labelled} labelled, {image}")
        return True

    def look(self, client: Client) -> None:
        """Have the hold-out segmented if it is time, and it has not been done."""
        count, every = self.labelled, self.options.every
        if not every or not count or (count % every and count != 1):
            return
        for image in self.hold_out:
            names = self.data.structures.values()
            rows = [{**self.name, "labels": str(count), "image": image, "structure": name} for name in names]
            if all(self.tables.holdout.key_of(row) in self.tables.holdout.rows for row in rows):
                continue
            study = self.data.studies[image]
            with seconds_of(client) as seconds:
                found = client.segment(study, self.data.structures)
            for row, (value, name) in zip(rows, self.data.structures.items(), strict=True):
                truth = study.truth(Structure(name, value))
                mask = np.zeros_like(truth) if found is None else found[name]
                self.tables.holdout.add(
                    {
                        **row,
                        "present": str(int(truth.any())),
                        "dice": f"{dice(mask, truth):.5f}",
                        "seconds": f"{seconds[0] / len(rows):.3f}",
                    }
                )
        self.say(f"{count} labelled, hold-out {self._mean_dice(count):.3f}")

    def _mean_dice(self, count: int) -> float:
        rows = [r for r in self.tables.holdout.rows.values() if r["labels"] == str(count)]
        return float(np.mean([float(r["dice"]) for r in rows if all(r[k] == self.name[k] for k in RUN)]))

    def _annotate(self, client: Client, study: Study) -> np.ndarray:
        """The label map (I, J, K) that a person submits of an image."""
        labels = np.zeros(study.volume.shape3, np.uint8 if max(self.data.structures) < 256 else np.uint16)
        with seconds_of(client) as seconds:
            offered = client.pre_label(study, self.data.structures)
        share = seconds[0] / len(self.data.structures)
        for value, name in self.data.structures.items():
            truth = study.truth(Structure(name, value))
            start = None if offered is None else offered[name]
            mask = self._structure(client, study, name, truth, start, share)
            kept = truth if self.options.submit == "truth" else mask
            labels[np.moveaxis(kept, 0, study.volume.slice_axis)] = value
        return labels

    def _structure(
        self,
        client: Client,
        study: Study,
        name: str,
        truth: np.ndarray,
        start: np.ndarray | None,
        share: float,
    ) -> np.ndarray:
        """Play the ways that are wanted; returns the mask of a person who takes a pre-label that is offered.

        `share` is the time that the pre-label took.
        """
        row = {**self.name, "image": study.pair.name, "structure": name, "annotator": client.name}
        row |= {"labels": str(self.labelled), "present": str(int(truth.any()))}
        if self.options.clicks == "none":
            if start is not None:
                work = Work(start, [dice(start, truth)])
                self.tables.cases.add({**row, **_figures(PRE_LABEL, work, share), "clicks": ""})
            return truth
        case = Case(client, study)
        mask = truth
        if start is None or self.options.clicks == "both":
            with seconds_of(client) as seconds:
                work = self.options.beginner.annotate(case, name, truth)
            self.tables.cases.add({**row, **_figures(NOTHING, work, seconds[0])})
            mask = work.mask
        if start is not None:
            with seconds_of(client) as seconds:
                work = self.options.person.annotate(case, name, truth, start)
            self.tables.cases.add({**row, **_figures(PRE_LABEL, work, seconds[0] + share)})
            mask = work.mask
        return mask

    def _settle(self, client: Client) -> None:
        """Wait until what the server knows of the pool is of the newest labels, or there at all."""
        if not self.options.settle or self.strategy.endswith("random"):
            return
        end = time.monotonic() + self.options.settle
        while time.monotonic() < end:
            keys = client.score_keys()
            if len(keys) == 1 and "" not in keys and keys != self._scores:
                break
            time.sleep(1)
        else:
            self.say("the server's scores are not of the newest labels")
        self._scores = client.score_keys()


def digest(labels: np.ndarray) -> str:
    """What stands for the voxels of a label map, whatever type they are stored in."""
    return hashlib.sha256(
        repr(labels.shape).encode() + np.ascontiguousarray(labels, np.int32).tobytes()
    ).hexdigest()[:16]


def problems(client: Client, submissions: Iterable[Row]) -> list[str]:
    """What was lost or doubled: a sentence for each image whose label is not what one person submitted.

    Parameters
    ----------
    client : Client
    submissions : iterable of Row
        Of `Run.submissions`.
    """
    by_image: dict[str, list[Row]] = {}
    for row in submissions:
        by_image.setdefault(row["image"], []).append(row)
    there = set(client.final_labels())
    found = [f"{image} was labelled by nobody." for image in sorted(there - set(by_image))]
    for image, rows in sorted(by_image.items()):
        if len(rows) > 1:
            found.append(f"{image} was annotated by {' and '.join(sorted(r['annotator'] for r in rows))}.")
        if image not in there:
            found.append(
                f"{image} was submitted by {rows[-1]['annotator']}, and the server has no label of it."
            )
        elif digest(client.final_label(image)) not in {row["digest"] for row in rows}:
            found.append(f"{image} has another label on the server than {rows[-1]['annotator']} submitted.")
    return found


def together(
    run: Run,
    clients: list[Client],
    seconds: float | None = None,
    restart: Callable[[], None] | None = None,
    after: int | None = None,
) -> None:
    """Several annotators at once, each in a thread of its own.

    Parameters
    ----------
    run : Run
    clients : list of Client
    seconds : float, optional
        After which no further case is asked for.
    restart : callable, optional
        Kills the server and starts it again; called once, in the middle of the time, or after so many labels.
    after : int, optional

    Raises
    ------
    Exception
        The first that an annotator met with.
    """
    begin = time.monotonic()
    until = None if seconds is None else begin + seconds
    errors: list[BaseException] = []

    def work(client: Client) -> None:
        try:
            while not errors and run.step(client, until):
                pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(client,), name=client.name) for client in clients]
    for thread in threads:
        thread.start()
    while restart and any(thread.is_alive() for thread in threads):
        half = seconds is not None and time.monotonic() > begin + seconds / 2
        if half or (after is not None and run.labelled >= after):
            run.say("the server is killed")
            restart()
            run.say("the server answers again")
            break
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _figures(way: str, work: Work, seconds: float) -> Row:
    return {
        "way": way,
        "clicks": str(work.clicks),
        "dice_start": f"{work.curve[0]:.5f}",
        "dice_end": f"{work.curve[-1]:.5f}",
        "seconds": f"{seconds:.3f}",
    }
