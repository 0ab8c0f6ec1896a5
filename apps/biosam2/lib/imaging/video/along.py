"""A volume whose slices follow in time, as a video."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lib.imaging.video.source import About, Source, even_times
from lib.imaging.volume import Volume


class Along(Source):
    """The slices of a volume along its own axis.

    Parameters
    ----------
    volume : Volume
    """

    def __init__(self, volume: Volume) -> None:
        self.volume: Volume = volume
        a, b = volume.in_plane_axes
        self.about = About(
            path=volume.path,
            kind="volume",
            size=(volume.shape3[a], volume.shape3[b]),
            is_rgb=volume.is_rgb,
            times=even_times(volume.n_slices, None),
            modality=volume.modality,
            window=volume.window,
            affine=volume.affine,
            header=volume.header,
            warnings=volume.warnings,
        )

    def read(self, index: int, keep: int) -> Iterator[tuple[int, np.ndarray]]:
        yield index, np.array(self.volume.plane(index))

    def close(self) -> None:
        pass  # the store keeps the volume
