"""How well the left ventricle is followed through a real ultrasound cine, and whether the way back agrees.

OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/cine.py [--help]

The cine is `color3d_jpeg_baseline.dcm` of the package pydicom-data (MIT): the heart from its tip in 120
frames of 640 x 480, in colour. The ventricle is asked for by a box on the first frame.

The reference outlines were drawn by hand from the pictures, by one of this project's people and not by a
cardiologist; those of frames 60, 90 and 119 after a first answer had been seen. The tip is uncertain by about
ten pixels, and so is the border to the atrium where the valve is open (90 and 119). The way back begins with
the mask that was found on the last frame, and is compared frame by frame with the way there: no reference
comes into that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from pydicom.data import get_testdata_file
from skimage.draw import polygon2mask

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "apps" / "biosam2"), str(Path(__file__).parent)]

from movies import DEFAULT, follow, strip  # noqa: E402

from lib.evaluation.davis import boundary_accuracy, region_similarity  # noqa: E402
from lib.evaluation.metrics import dice  # noqa: E402
from lib.evaluation.simulate import clicks  # noqa: E402
from lib.imaging.video.open import open_video  # noqa: E402
from lib.sam.model import ModelSlot  # noqa: E402

CINE = "color3d_jpeg_baseline.dcm"
BOX = (300.0, 133.0, 392.0, 266.0)  # x0, y0, x1, y1 on the first frame
# (x, y) around the left ventricle, by frame
OUTLINES = {
    0: [
        (302, 255), (303, 240), (310, 225), (316, 210), (318, 195), (316, 180), (318, 165), (322, 150),
        (335, 135), (355, 135), (368, 150), (378, 175), (382, 195), (388, 215), (390, 235), (385, 250),
        (372, 249), (350, 254), (335, 261), (320, 265), (306, 260),
    ],
    30: [
        (318, 245), (318, 230), (325, 212), (328, 200), (325, 185), (325, 170), (332, 152), (342, 135),
        (355, 135), (372, 150), (390, 165), (400, 185), (403, 205), (405, 225), (402, 243), (385, 246),
        (365, 245), (350, 248), (335, 251), (325, 248),
    ],
    60: [
        (315, 245), (314, 232), (322, 220), (330, 208), (335, 195), (332, 180), (336, 165), (338, 150),
        (345, 138), (360, 135), (372, 150), (382, 170), (390, 190), (396, 210), (399, 228), (396, 242),
        (385, 240), (372, 236), (358, 240), (345, 248), (330, 252),
    ],
    90: [
        (320, 268), (316, 250), (314, 235), (312, 215), (312, 195), (308, 180), (304, 165), (308, 148),
        (318, 135), (335, 128), (352, 130), (365, 140), (378, 155), (388, 170), (396, 185), (406, 200),
        (410, 215), (410, 232), (403, 247), (395, 262), (391, 283), (375, 281), (355, 278), (335, 272),
    ],
    119: [
        (323, 268), (324, 252), (321, 235), (319, 215), (316, 195), (308, 180), (305, 165), (308, 150),
        (318, 135), (335, 128), (352, 130), (368, 138), (380, 150), (390, 165), (398, 180), (405, 195),
        (415, 208), (412, 225), (405, 240), (398, 258), (393, 283), (375, 281), (350, 276), (335, 271),
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT)
    parser.add_argument("--file", type=Path, help=f"{CINE}, where pydicom-data is not installed")
    parser.add_argument("--strip", type=Path, help="a PNG of the frames with outlines")
    args = parser.parse_args()
    path = args.file or get_testdata_file(CINE, download=False)
    if path is None:
        sys.exit("There is no cine: pip install --no-deps pydicom-data, or say where it is with --file.")
    torch.set_num_threads(1)
    model = ModelSlot(args.checkpoint, "cpu").get()
    with open_video(Path(path)) as video:
        frames = np.stack(list(video))
    there = follow(model, frames, clicks([], [], box=BOX))
    back = follow(model, frames, clicks([], [], mask=there[-1]), start=len(frames) - 1)
    references = {n: polygon2mask(frames.shape[1:3], outline) for n, outline in OUTLINES.items()}
    if args.strip:
        shown = list(references)
        strip(frames[shown], np.stack(list(references.values())), there[shown], args.strip, each=1)
    print("| frame | J | F | Dice |\n|---|---|---|---|")
    rows = []
    for number, reference in references.items():
        mask = there[number]
        row = region_similarity(mask, reference), boundary_accuracy(mask, reference), dice(mask, reference)
        print(f"| {number} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
        if number:  # the prompted one is not counted
            rows.append(row)
    print("| mean of the others | " + " | ".join(f"{value:.3f}" for value in np.mean(rows, 0)) + " |")
    agreed = [dice(one, other) for one, other in zip(there, back, strict=True)]
    print(
        f"\nThere and back: Dice {np.mean(agreed):.3f} in the mean, {min(agreed):.3f} at least, "
        f"{agreed[0]:.3f} on the first frame; frames without a mask: {sum(not m.any() for m in there)}."
    )


if __name__ == "__main__":
    main()
