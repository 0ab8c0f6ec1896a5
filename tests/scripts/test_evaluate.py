"""scripts/evaluate on small data sets in the layouts that people have, with two checkpoints side by side."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from lib.evaluation.results import SECONDS
from lib.sam.checkpoints import save_checkpoint
from lib.sam.network import NANO, PUBLISHED, build

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate"
NANO_NAME = ["--checkpoint", "biosam2_nano"]
SIZE = ["--image-size", "64", "--device", "cpu", "--bootstrap", "50"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(image: Path, label: Path, seed: int) -> None:
    """A bright ball in noise, 32 x 28 x 6 voxels of 1 x 1 x 2 mm, and where it is."""
    i, j, k = np.mgrid[:32, :28, :6]
    truth = (i - 16) ** 2 + (j - 14) ** 2 + (2 * (k - 3)) ** 2 < 49
    voxels = 20 + 130 * truth + np.random.default_rng(seed).normal(0, 5, truth.shape)
    for path, array in ((image, voxels.astype(np.int16)), (label, truth.astype(np.uint8))):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), path)


@pytest.fixture(scope="module")
def decathlon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Task99_Ball")
    names = [f"ball_{number}.nii.gz" for number in range(2)]
    for seed, name in enumerate(names):
        write(folder / "imagesTr" / name, folder / "labelsTr" / name, seed)
    files = [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in [*names, "lost.nii.gz"]]
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}, "training": files}
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_checkpoint(path, build(NANO).state_dict(), NANO)
    return path


def run(*arguments: object) -> int:
    """The script in this process: importing torch again takes longer than what is tested."""
    before = sys.argv
    sys.argv = [str(SCRIPT), *map(str, arguments)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def start(*arguments: object) -> subprocess.Popen[str]:
    """The script as a person starts it."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in SECONDS} for row in csv.DictReader(file)]


def test_two_checkpoints_on_a_decathlon_folder_killed_and_gone_on_with(decathlon, untrained, tmp_path):
    arguments = ["--images", decathlon, "--checkpoint", "biosam2_nano", "--checkpoint", untrained, *SIZE]
    arguments += ["--prompts", "1click,box,cvpr", "--jitter", "2"]
    out = tmp_path / "killed"
    killed = start(*arguments, "--out", out)
    results = out / "results.csv"
    while killed.poll() is None and not (results.exists() and results.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    done = results.read_bytes().count(b"\n") - 1
    assert 3 <= done < 12, "it should have been stopped midway"
    with open(results, "ab") as file:
        file.write(b"biosam2_nano,0123")

    resumed = start(*arguments, "--out", out)
    printed, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert f"{12 - done} rows made, {done} from before" in printed
    assert "not measured: lost (reading): " in printed

    assert run(*arguments, "--out", tmp_path / "whole") == 0
    assert table(out) == table(tmp_path / "whole")
    rows = table(out)
    assert [r["model"] for r in rows] == ["biosam2_nano"] * 6 + ["untrained"] * 6
    assert {r["structure"] for r in rows} == {"ball"} and {r["slices"] for r in rows} == {"3"}
    assert np.mean([float(r["dice"]) for r in rows[:6] if r["prompts"] == "box"]) > 0.6
    assert all(len(r["dice_after"].split()) == 6 for r in rows if r["prompts"] == "cvpr")

    report = (out / "report.md").read_text()
    for line in ("| ball | box | biosam2_nano | 2 |", "| ball | box | untrained | 2 |", "- seed: 0"):
        assert line in report.replace("**", "")
    page = (out / "report.html").read_text()
    assert rows[0]["version"] in page and "data:image/png;base64," in page and "http" not in page


def test_a_folder_of_monai_label_with_pictures_baselines_and_a_sam2_file(untrained, tmp_path, capsys):
    images, labels = tmp_path / "study", tmp_path / "study" / "labels" / "final"
    labels.mkdir(parents=True)
    a, b = np.mgrid[:48, :64]
    for number in range(2):
        truth = (a - 20) ** 2 + (b - 30 - number) ** 2 < 100
        noise = np.random.default_rng(number).normal(0, 5, truth.shape)
        Image.fromarray((60 + 120 * truth + noise).astype(np.uint8)).save(images / f"cell{number}.png")
        Image.fromarray(truth.astype(np.uint8)).save(labels / f"cell{number}.png")
    info = {"label_info": [{"name": "nucleus", "idx": 1}]}
    listed = {"image": {"ext": ".png"}, "labels": {"final": {"ext": ".png", "info": info}}}
    store = {"name": "x", "description": "", "objects": {"cell0": listed, "cell1": listed}}
    (images / "datastore_v2.json").write_text(json.dumps(store))
    torch.manual_seed(0)
    tiny = tmp_path / "tiny.safetensors"
    save_checkpoint(tiny, build(PUBLISHED["hiera_tiny"]).state_dict(), PUBLISHED["hiera_tiny"])

    arguments = ["--images", images, "--checkpoint", "biosam2_nano", "--checkpoint", tiny, *SIZE]
    arguments += ["--pipeline", "image", "--prompts", "box,3clicks", "--baselines"]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    assert {r["structure"] for r in rows} == {"nucleus"}
    assert [(r["model"], r["prompts"]) for r in rows if r["case"] == "cell0"] == [
        ("biosam2_nano", "box"),
        ("biosam2_nano", "3clicks"),
        ("tiny", "box"),
        ("tiny", "3clicks"),
        ("Otsu in the box", "box"),
        ("random walker in the box", "box"),
    ]
    assert all(float(r["dice"]) > 0.95 for r in rows if r["model"] == "Otsu in the box")
    assert "| nucleus | box | better of the two | 2 |" in capsys.readouterr().out.replace("**", "")
    assert "hiera_tiny, 64 x 64" in (tmp_path / "out" / "report.md").read_text()

    # another protocol makes rows of its own beside the old ones, and its report has its own alone
    arguments += ["--limit", "1", "--structures", "nucleus", "--no-zoom"]
    assert run(*arguments, "--out", tmp_path / "out") == 0
    assert "6 rows made, 0 from before" in capsys.readouterr().out
    assert len(table(tmp_path / "out")) == 12 + 6
    assert "| nucleus | box | tiny | 1 |" in (tmp_path / "out" / "report.md").read_text()


def test_a_video_is_evaluated_in_time(decathlon, tmp_path):
    arguments = ["--images", decathlon, "--checkpoint", "biosam2_nano", *SIZE, "--limit", "1"]
    assert run(*arguments, "--pipeline", "video", "--prompts", "box,mask", "--out", tmp_path) == 0
    box, mask = table(tmp_path)
    assert (box["slices"], mask["slices"]) == ("0", "0")
    assert (len(box["dice_along"].split()), len(mask["dice_along"].split())) == (6, 5)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--images", "{lost}", *NANO_NAME], "folder {lost} does not exist."),
        (["--images", "{data}", "--checkpoint", "lost.pt"], 'checkpoint "lost.pt" is neither a file nor'),
        (["--images", "{data}", *NANO_NAME, "--prompts", "2box"], "--prompts 2box is not known"),
        (["--images", "{data}", *NANO_NAME, "--image-size", "65"], "image_size must be"),
        (["--images", "{data}", *NANO_NAME, "--labels", "{empty}"], "has a label"),
    ],
)
def test_mistakes_end_with_2_and_one_sentence(decathlon, tmp_path, capsys, arguments, sentence):
    (tmp_path / "empty").mkdir()
    names = {"lost": tmp_path / "lost", "data": decathlon, "empty": tmp_path / "empty"}
    arguments = [text.format(**names) for text in arguments]
    assert run(*arguments, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err.strip()
    assert sentence.format(**names) in said and len(said.splitlines()) == 1
