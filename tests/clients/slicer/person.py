"""A person at 3D Slicer with MONAI Label's plugin, who opens images, clicks, draws and submits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import requests
import SimpleITK as sitk
import slicer
import slicer.util
from clients.slicer.desktop import Desktop, Widget, load_plugin
from clients.slicer.volumes import Volume

LISTED_SECONDS = 30  # far more than it takes until the server knows that a label was removed


class Person:
    """Does in the plugin's form and in Slicer's views what a person does there.

    Places are given as voxels of the file that is open, and reach Slicer in RAS mm, worked out by SimpleITK.

    Parameters
    ----------
    desktop : Desktop
    url : str
        Typed as the server's address.

    Attributes
    ----------
    desktop : Desktop
    plugin : MONAILabelWidget
        The plugin's form, with everything behind it.
    """

    def __init__(self, desktop: Desktop, url: str) -> None:
        self.desktop, self._url = desktop, url
        self.plugin = load_plugin(desktop).MONAILabelWidget(Widget())
        self.plugin.setup()
        self.plugin.ui.serverComboBox.setCurrentText(url)
        self.plugin.onClickFetchInfo()
        self._image: sitk.Image | None = None

    def leave(self) -> None:
        self.plugin.cleanup()

    def open_file(self, path: Path) -> None:
        """File -> Add Data."""
        self._image = sitk.ReadImage(str(path))
        slicer.util.loadVolume(str(path), {})

    def next_sample(self, volume: Volume, elsewhere: bool = False) -> None:
        """Press Next Sample, when `volume` is due (see `make_due`).

        With `elsewhere`, the server's files are not on this machine.
        """
        self._image = sitk.ReadImage(str(volume.path))
        end = time.monotonic() + LISTED_SECONDS
        while not self.make_due(volume.name):
            assert time.monotonic() < end, f"{volume.name} is labelled"
        if elsewhere:
            ask = self.plugin.logic.next_sample
            self.plugin.logic.next_sample = lambda *args: {**ask(*args), "path": "/not/on/this/machine"}
        self.plugin.ui.strategyBox.choose("random")
        self.plugin.onNextSampleButton()

    def make_due(self, image: str) -> bool:
        """Have others take every case and give this one back; whether there was anything to give back."""
        url = f"{self._url}/activelearning"
        for _ in self.plugin.logic.datastore()["objects"]:
            requests.post(f"{url}/random", json={}, timeout=60).raise_for_status()
        return requests.delete(f"{url}/claims/{image}", timeout=60).ok

    def choose(self, model: str, label: str) -> None:
        """Choose model and structure under SmartEdit; a structure that is not there is added."""
        if self.plugin.ui.labelComboBox.findText(label) < 0:
            self.plugin._segmentNode.GetSegmentation().AddEmptySegment(label, label)
            self.plugin.updateGUIFromParameterNode()
        self.plugin.ui.deepgrowModelSelector.choose(model)
        self.plugin.ui.labelComboBox.choose(label)

    def click(self, voxel: Sequence[float], foreground: bool = True, update: bool = True) -> None:
        """Place a point; with `update`, the plugin asks the server at once."""
        self.plugin.ui.dgUpdateCheckBox.checked = update
        node = self.plugin.dgPositivePointListNode if foreground else self.plugin.dgNegativePointListNode
        # while a person places a point, it is the active one
        node.GetDisplayNode().SetActiveControlPoint(node.GetNumberOfControlPoints())
        node.AddControlPoint(self.ras(voxel))

    def draw_roi(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Draw the smallest ROI, along the patient's axes as Slicer draws it, around a box of voxels."""
        corners = np.array([self.ras(np.where(pick, high, low)) for pick in np.ndindex(2, 2, 2)])
        node = self.plugin.ui.sam2PlaceWidget.currentNode()
        node.SetCenter((corners.min(0) + corners.max(0)) / 2)
        node.SetSize(np.ptp(corners, axis=0))

    def run_automatic(self) -> None:
        """Press Run under Auto Segmentation."""
        self.plugin.ui.segmentationModelSelector.choose("biosam2_auto")
        self.plugin.onClickSegmentation()

    def want_automatic(self) -> None:
        """Tick Auto-Run Pre-Trained Model in the settings."""
        self.desktop.settings["MONAILabel/autoRunSegmentationOnNextSample"] = 1

    def update(self) -> None:
        """Press Update under SmartEdit."""
        self.plugin.onUpdateDeepgrow()

    def submit(self) -> None:
        """Press Submit Label."""
        self.plugin.onSaveLabel()

    def ras(self, voxel: Sequence[float]) -> list[float]:
        """Where a voxel of the file is, in mm to the right, to the front and up."""
        assert self._image is not None
        place = self._image.TransformContinuousIndexToPhysicalPoint([float(x) for x in voxel])
        return [-place[0], -place[1], place[2]]

    @property
    def sent_points(self) -> list[list[int]]:
        """The foreground points as the plugin sends them."""
        return self.plugin.getControlPointsXYZ(self.plugin.dgPositivePointListNode, "foreground")

    @property
    def sent_roi(self) -> list[int]:
        """The ROI as the plugin sends it."""
        return self.plugin.getROIPointsXYZ(self.plugin.ui.sam2PlaceWidget.currentNode())

    @property
    def sample(self) -> dict[str, object]:
        """What the plugin knows of the image that is open."""
        return self.plugin.current_sample

    @property
    def voxels(self) -> np.ndarray:
        """The intensities (I, J, K) of the volume that is open, in Slicer's order."""
        return slicer.util.arrayFromVolume(self.plugin._volumeNode).T

    @property
    def structures(self) -> list[str]:
        """Names of the segments, in their order."""
        segmentation = self.plugin._segmentNode.GetSegmentation()
        return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]

    def marked(self, label: str) -> np.ndarray:
        """The voxels (I, J, K), bool, that a segment holds of the volume that is open, in Slicer's order."""
        node = self.plugin._segmentNode
        segment = node.GetSegmentation().GetSegmentIdBySegmentName(label)
        return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, self.plugin._volumeNode).T > 0
