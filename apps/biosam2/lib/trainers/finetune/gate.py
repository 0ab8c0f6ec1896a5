"""The gate: whether a candidate is served in place of what is served now.

Both are asked the same on the hold-out, whose patients nobody has trained on, and on the general set. The
candidate passes if it is better on the site's structures by more than the noise, and elsewhere not worse by
more than a margin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from lib.errors import UserError
from lib.evaluation.contenders import checkpoints
from lib.evaluation.datasets import Pair
from lib.evaluation.metrics import interval
from lib.evaluation.protocol import BOX, Pipeline, Protocol
from lib.evaluation.results import Row
from lib.evaluation.runner import evaluate

MARGIN = 0.02  # Dice that may be lost on the general set
# with fewer, all differences are above 0 by chance too often: 1 time in 8 with three, 1 in 32 with five
FEWEST_PATIENTS = 5
MOST_CASES, MOST_VOLUMES = 32, 2  # of the hold-out: slices of so many, propagated through so many
RESAMPLES = 2000
JITTER = 3  # voxels
CLICKS = "3clicks"


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints reach on the same cases: mean Dice, and the difference with its 95% interval.

    `structures` has served, candidate and the number of patients by structure.
    """

    cases: int
    served: float
    candidate: float
    difference: float
    low: float
    high: float
    candidate_low: float
    candidate_high: float
    structures: dict[str, dict[str, float]]

    @property
    def forgot(self) -> bool:
        """Whether more was lost than may be."""
        return self.difference < -MARGIN


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate is to be served, why or why not in a sentence, and the figures behind it."""

    publish: bool
    reason: str
    site: Comparison | None
    general: Comparison | None


def measure(
    slices: Sequence[Pair],
    volumes: Sequence[Pair],
    served: Path,
    candidate: Path,
    out: Path,
    device: str,
    image_size: int | None = None,
) -> tuple[list[Row], list[Row]]:
    """Rows of both checkpoints: box and clicks on slices, and a box propagated through volumes.

    Parameters
    ----------
    slices, volumes : sequence of Pair
    out : Path
        Folder of `results.csv` and of the worst cases. Rows that are there already are not made again.

    Returns
    -------
    served, candidate : list of dict

    Raises
    ------
    UserError
        If cases cannot be measured: deciding on those that remain could favour either.
    """
    asked: list[tuple[Pipeline, tuple[str, ...], str, Sequence[Pair]]] = [
        ("image", (BOX, CLICKS), "every:10", slices),
        ("volume", (BOX,), "largest", volumes),
    ]
    found: tuple[list[Row], list[Row]] = ([], [])
    for pipeline, designs, where, pairs in asked:
        if not pairs:
            continue
        protocol = Protocol(pipeline, designs, JITTER, where, image_size=image_size)
        for path, rows in zip((served, candidate), found, strict=True):
            done = evaluate(pairs, checkpoints([str(path)], path.parent, protocol, device), protocol, out)
            if done.failures:
                first = done.failures[0]
                raise UserError(f"{first.case} could not be measured ({first.what}): {first.reason}")
            rows += done.rows
    return found


def compare(
    served: Sequence[Row], candidate: Sequence[Row], patients: Mapping[str, str], seed: int = 0
) -> Comparison:
    """Two checkpoints' rows of the same cases, paired by patient.

    Every structure and way of asking counts the same in a patient, every patient the same in the mean.

    Parameters
    ----------
    patients : mapping of str to str
        Patient by case; a case that is not in it is a patient by itself.
    """
    by_patient = [_means(rows, patients) for rows in (served, candidate)]
    names = sorted(by_patient[0])
    before, after = (np.array([np.mean(list(means[n].values())) for n in names]) for means in by_patient)
    low, high = _paired(after - before, seed)
    ends = interval(list(after), names, np.mean, RESAMPLES, seed)
    structures: dict[str, dict[str, float]] = {}
    for structure in sorted({s for means in by_patient[0].values() for s, *_ in means}):
        values = [
            [
                float(np.mean([v for key, v in means[n].items() if key[0] == structure]))
                for n in names
                if any(key[0] == structure for key in means[n])
            ]
            for means in by_patient
        ]
        ends_here = interval(values[1], [str(n) for n in range(len(values[1]))], np.mean, RESAMPLES, seed)
        structures[structure] = {
            "served": float(np.mean(values[0])),
            "candidate": float(np.mean(values[1])),
            "cases": len(values[0]),
            "candidate_low": ends_here[0],
            "candidate_high": ends_here[1],
        }
    return Comparison(
        cases=len(names),
        served=float(before.mean()),
        candidate=float(after.mean()),
        difference=float((after - before).mean()),
        low=low,
        high=high,
        candidate_low=float(ends[0]),
        candidate_high=float(ends[1]),
        structures=structures,
    )


def too_small(patients: int) -> Verdict:
    """The verdict where so many held-out patients are too few to compare on."""
    reason = (
        f"The hold-out is too small to decide: it has {patients} of at least {FEWEST_PATIENTS} patients. "
        "Label more patients; every fourth is held out."
    )
    return Verdict(False, reason, None, None)


def decide(site: Comparison, general: Comparison) -> Verdict:
    """The verdict on two comparisons."""
    change = f"Dice {site.served:.3f} to {site.candidate:.3f} on {site.cases} held-out patients"
    if not site.low > 0:
        noise = f"the difference lies between {site.low:+.3f} and {site.high:+.3f}"
        return Verdict(False, f"Not better by more than the noise: {change}, {noise}.", site, general)
    if general.forgot:
        lost = f"{general.served:.3f} to {general.candidate:.3f}"
        return Verdict(
            False,
            f"Better here ({change}), but the general set fell from {lost}, more than {MARGIN}.",
            site,
            general,
        )
    return Verdict(True, f"Better: {change}.", site, general)


def _means(rows: Sequence[Row], patients: Mapping[str, str]) -> dict[str, dict[tuple[str, ...], float]]:
    """Mean Dice by patient, and there by structure, pipeline and prompts."""
    found: dict[str, dict[tuple[str, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = row["structure"], row["pipeline"], row["prompts"]
        found[patients.get(row["case"], row["case"])][key].append(float(row["dice"]))
    return {
        patient: {key: float(np.mean(values)) for key, values in means.items()}
        for patient, means in found.items()
    }


def _paired(differences: np.ndarray, seed: int) -> tuple[float, float]:
    """95% interval of the mean difference, by drawing patients again; the difference itself for one."""
    if len(differences) < 2 or np.ptp(differences) == 0:
        only = float(differences.mean())
        return only, only
    found = bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The figures as a version's `gate`; see `lib.versions.store`."""
    found: dict[str, Any] = {}
    for name, comparison in (("site", verdict.site), ("general", verdict.general)):
        if comparison is not None:
            found[name] = dict(vars(comparison))
    if "general" in found:
        found["general"]["margin"] = MARGIN
    return found
