"""How good pre-labels are after 1, 3 and 5 labelled cases, without training: Dice on cases never labelled.

.venv/bin/python tests/benchmarks/prelabels.py [--help]

Drawn anatomies: patients of other shapes and contrasts, one in five with an inverted scanner
(`lib.evaluation.anatomy`). Sets of patients that are bent, sized, turned, of another contrast: two drawn
ones, and brains, a human's and a macaque's (`lib.evaluation.simulated`; `scripts/simulated_sets` fetches
these). With `--slices 1` each of their patients is one plane. Images and labels are files in a datastore, and
what is asked is what `biosam2_auto` asks. The interval is over the unseen cases.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "apps" / "biosam2"))

from monailabel.datastore.local import LocalDatastore  # noqa: E402

from lib.bank.bank import LabelBank  # noqa: E402
from lib.bank.pipeline import prelabel  # noqa: E402
from lib.evaluation.anatomy import ORGANS, SPACING, Anatomy  # noqa: E402
from lib.evaluation.metrics import dice, interval  # noqa: E402
from lib.evaluation.simulated import SETS, TEMPLATES, SimulatedSet  # noqa: E402
from lib.imaging.volume import load_volume  # noqa: E402
from lib.imaging.window import choose_window  # noqa: E402
from lib.infers.image_task import Slices  # noqa: E402
from lib.sam.exemplars import Memories  # noqa: E402
from lib.sam.model import Model, ModelSlot  # noqa: E402

DRAWN = "drawn"
FIRST_UNSEEN = 20  # number of the first patient that is never labelled
CACHE = 1_000_000_000  # bytes of embeddings


class Case(NamedTuple):
    voxels: np.ndarray
    labels: np.ndarray
    affine: np.ndarray


def cases_of(
    name: str, seed: int, labelled: int, unseen: int, templates: Path, slices: int | None = None
) -> tuple[list[Case], list[Case]]:
    """Patients to label and others, and none of them twice."""
    if name == DRAWN:
        patients = [
            Anatomy(seed).patient(n) for n in (*range(labelled), *range(FIRST_UNSEEN, FIRST_UNSEEN + unseen))
        ]
        cases = [Case(p.pixels, p.labels, np.diag([*SPACING, 1.0])) for p in patients]
    else:
        scans = iter(SimulatedSet(name, 4 * (labelled + unseen), seed, templates, slices))
        firsts = (Case(s.voxels, s.labels, s.affine) for s in scans if s.name.endswith("ses-1"))
        cases = list(itertools.islice(firsts, labelled + unseen))
    return cases[:labelled], cases[labelled:]


def measured(
    labelled: list[Case], unseen: list[Case], names: dict[int, str], model: Model
) -> Iterator[tuple[int, float, float]]:
    """Unseen case, Dice of a structure that it has, and the seconds that the case took."""
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        for number, case in enumerate([*labelled, *unseen]):
            nib.save(nib.Nifti1Image(case.voxels, case.affine), studies / f"case{number}.nii.gz")
        datastore = LocalDatastore(str(studies), extensions=["*.nii.gz"], auto_reload=False)
        sent = Path(folder) / "label.nii.gz"
        for number, case in enumerate(labelled):
            nib.save(nib.Nifti1Image(case.labels, case.affine), sent)
            listed = [{"name": name, "idx": value} for value, name in names.items()]
            datastore.save_label(f"case{number}", str(sent), "final", {"label_info": listed})
        bank = LabelBank(lambda: datastore, Path(folder) / "bank")
        bank.refresh()
        for number, case in enumerate(unseen, len(labelled)):
            path = studies / f"case{number}.nii.gz"
            volume = load_volume(path)
            planes = Slices(volume, choose_window(volume), volume.slice_axis)
            start = time.monotonic()
            found = prelabel(model, planes, len(planes), bank, Memories(), path)
            seconds = time.monotonic() - start
            labels = np.moveaxis(found.labels, 0, volume.slice_axis)
            for value, name in names.items():
                if (case.labels == value).any():
                    # what nobody has labelled yet nobody can find
                    mask = (
                        labels == found.indexes[name]
                        if name in found.indexes
                        else np.zeros(labels.shape, bool)
                    )
                    yield number, dice(mask, case.labels == value), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=[DRAWN, *SETS], default=[DRAWN])
    parser.add_argument(
        "--counts", nargs="+", type=int, default=[1, 3, 5], help="labelled cases (%(default)s)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(21, 27)), help="(%(default)s)")
    parser.add_argument(
        "--unseen", type=int, default=2, help="cases of each seed to find them on (%(default)s)"
    )
    parser.add_argument("--slices", type=int, help="of each patient of a set, those in the middle")
    parser.add_argument("--templates", type=Path, default=TEMPLATES, help="folder of the brains")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    default = REPOSITORY / "apps" / "biosam2" / "model" / "biosam2_nano.safetensors"
    model = ModelSlot(args.checkpoint or default, args.device, CACHE).get()
    print("| set | labelled | Dice [95 %] | structures | s a case |\n|---|---|---|---|---|")
    for name in args.sets:
        most = max(args.counts)
        sites = {
            seed: cases_of(name, seed, most, args.unseen, args.templates, args.slices) for seed in args.seeds
        }
        for count in args.counts:
            cases, scores, times = [], [], []
            for seed, (labelled, unseen) in sites.items():
                names = {value: f"organ {value}" for value in range(1, ORGANS + 1)}
                if name != DRAWN:
                    names = SimulatedSet(name, 1, seed, args.templates).structures
                for case, score, seconds in measured(labelled[:count], unseen, names, model):
                    cases.append(f"{seed}-{case - count}")
                    scores.append(score)
                    times.append(seconds)
            low, high = interval(scores, cases, np.mean)
            print(
                f"| {name} | {count} | **{np.mean(scores):.2f}** [{low:.2f}, {high:.2f}] | {len(scores)} "
                f"| {np.mean(times):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
