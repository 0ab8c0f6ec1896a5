"""OHIF in headless Chromium, driven as a person does: by mouse, wheel and keys; and its voxels, read back."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from clients.ohif.phantoms import LIVER, Series
from playwright.sync_api import Browser, BrowserType, Page, TimeoutError, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# WebGL in software, nothing fetched from elsewhere.
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader"),
    *("--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
]
SIZE = {"width": 1280, "height": 800}
PATIENCE = 240_000  # ms, for what a busy machine does slowly

# What the page is asked; `views` are cornerstone's own, so nothing here relies on our script.
READY = """() => { try {
    const { viewportGridService, cornerstoneViewportService } = window.services;
    const ids = [...viewportGridService.getState().viewports.keys()];
    return ids.length > 0 && ids.every((id) => {
        const view = cornerstoneViewportService.getCornerstoneViewport(id);
        return view && view.canvas.width > 0 && view.getCurrentImageIdIndex() !== undefined
            && view.getDefaultActor();
    });
} catch { return false; } }"""
VIEW = """(id) => window.services.cornerstoneViewportService.getCornerstoneViewport(
    id ?? window.services.viewportGridService.getActiveViewportId())"""
SCREEN = f"""([id, world]) => {{
    const view = ({VIEW})(id), box = view.canvas.getBoundingClientRect();
    const [x, y] = view.worldToCanvas(world);
    return [x + box.left, y + box.top];
}}"""
OFF_PLANE = f"""([id, world]) => {{
    const view = ({VIEW})(id), {{ viewPlaneNormal: n }} = view.getCamera();
    const middle = view.canvasToWorld([view.canvas.clientWidth / 2, view.canvas.clientHeight / 2]);
    return n.reduce((sum, x, axis) => sum + x * (world[axis] - middle[axis]), 0);
}}"""
IMAGES = """() => window.services.segmentationService.getSegmentations()
  .filter(({ label }) => label === 'BioSAM-2')
  .map(({ segmentationId, segments, representationData: { Labelmap } }) => ({
    id: segmentationId,
    names: Object.values(segments).filter(Boolean).map(({ segmentIndex, label }) => [segmentIndex, label]),
    images: Labelmap.imageIds.map((imageId) => {
        const image = cornerstone.cache.getImage(imageId);
        const plane = cornerstone.metaData.get('imagePlaneModule', image.referencedImageId);
        const voxels = image.voxelManager.getScalarData();
        return { origin: [...plane.imagePositionPatient], rows: plane.rows, columns: plane.columns,
                 voxels: btoa(Array.from(voxels, (x) => String.fromCharCode(x)).join('')) };
    }),
  }))"""
VOLUME = """(id) => {
    const { Labelmap } = window.services.segmentationService.getSegmentation(id).representationData;
    const volume = Labelmap.volumeId && cornerstone.cache.getVolume(Labelmap.volumeId);
    if (!volume) return null;
    const voxels = volume.voxelManager.getCompleteScalarDataArray();
    return { origin: [...volume.origin], spacing: [...volume.spacing], direction: [...volume.direction],
             shape: [...volume.dimensions],
             voxels: btoa(Array.from(voxels, (x) => String.fromCharCode(x)).join('')) };
}"""

PAINT = """([origin, row, column, value]) => {
    for (const { label, representationData } of window.services.segmentationService.getSegmentations()) {
        if (label !== 'BioSAM-2') continue;
        for (const imageId of representationData.Labelmap.imageIds) {
            const { referencedImageId, voxelManager } = cornerstone.cache.getImage(imageId);
            const plane = cornerstone.metaData.get('imagePlaneModule', referencedImageId);
            if (plane.imagePositionPatient.every((x, axis) => Math.abs(x - origin[axis]) < 0.01))
                voxelManager.setAtIndex(row * plane.columns + column, value);
        }
    }
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver, launch(driver.chromium) as browser:
        yield browser


def launch(kind: BrowserType) -> Browser:
    return kind.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)


class Ohif:
    """A page of OHIF with our panel in it."""

    def __init__(self, page: Page, server: str) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, series: Series, mode: str = "viewer") -> None:
        query = f"StudyInstanceUIDs={series.study}&initialSeriesInstanceUID={series.uid}"
        self.page.goto(f"{self.server}/ohif/{mode}?{query}", wait_until="domcontentloaded")
        self.ready()

    def ready(self) -> None:
        with self._patience("The open study"):
            self.page.wait_for_function(READY)
            self.part("inside").wait_for()
        confirm = self.page.get_by_text("Confirm and Hide")  # that OHIF is for research only
        if confirm.is_visible():
            confirm.click()
        self.idle()

    def part(self, name: str) -> Any:
        return self.page.locator(f'#biosam2 [data-part="{name}"]')

    def give_back(self, series: Series) -> None:
        """End this tab's claim on a next case, which others would otherwise not get for half an hour."""
        tab = self.page.evaluate("sessionStorage.getItem('biosam2-tab')")
        place = f"{self.server}/activelearning/claims/{series.uid}"
        requests.delete(place, params={"client_id": tab}, timeout=60).raise_for_status()

    def press(self, name: str) -> None:
        self.part(name).click()

    def key(self, keys: str) -> None:
        self.page.keyboard.press(keys)

    def choose(self, structure: str) -> None:
        self.page.locator(f'#biosam2 input[type=radio][value="{structure}"]').check()

    def structures(self) -> list[str]:
        """The names in the panel's list, in its order."""
        listed = self.page.locator("#biosam2 input[type=radio]")
        return [name for name in (row.get_attribute("value") for row in listed.all()) if name]

    def add(self, structure: str) -> None:
        self.part("name").fill(structure)
        self.part("name").press("Enter")

    def tool(self, name: str) -> None:
        if self.part(name).get_attribute("aria-pressed") != "true":
            self.press(name)
        self.idle()

    def idle(self) -> None:
        """Wait until the panel has nothing under way."""
        with self._patience("The end of what is under way"):
            self.page.locator("#biosam2 .working").wait_for(state="hidden")

    def propagated(self, done: int) -> None:
        """Wait until the panel says that a propagation under way has done so many slices."""
        self._reached(f"Propagating: {done} of ")

    def looked(self, done: int) -> None:
        """Wait until the panel says that a search for all structures has done so many looks at slices."""
        self._reached(f"Finding structures: {done} of ")

    def _reached(self, told: str) -> None:
        with self._patience(f"'{told}'"):
            self.page.locator("#biosam2 .what", has_text=told).wait_for()

    @contextmanager
    def _patience(self, what: str) -> Iterator[None]:
        """Time that runs out in it is an error that says what the panel shows instead."""
        try:
            yield
        except TimeoutError as error:
            panel = self.page.locator("#biosam2 .working:visible, #biosam2 [data-part=status]")
            shown = " / ".join(panel.all_inner_texts()) or "no panel"
            raise AssertionError(f"{what} did not come in {PATIENCE / 1000:g} s. Shown: {shown}") from error

    @property
    def said(self) -> str:
        return str(self.part("status").inner_text())

    def go_to(self, world: list[float], view: str | None = None) -> None:
        """Turn the wheel until no slice of a view is nearer to a place than the one that it shows."""
        self.page.mouse.move(*self._middle(view))
        left = self._off_plane(view, world)
        step, turn, turned = np.inf, 100, 0
        while abs(left) > 0.1 and turned < 400 and not abs(left) <= step / 2 < np.inf:
            self.page.mouse.wheel(0, turn)
            turned += 1
            now = self._moved(view, world, left)
            if now == left or abs(now) > abs(left):  # the end of the volume, or the wrong way
                turn = -turn
            if now != left:
                step = abs(now - left)
            left = now
        assert turned < 400, f"the wheel does not lead to {world}: {left} mm are left"

    def _off_plane(self, view: str | None, world: list[float]) -> float:
        return round(float(self.page.evaluate(OFF_PLANE, [view, world])), 3)

    def _moved(self, view: str | None, world: list[float], before: float) -> float:
        """The distance once the view has followed the wheel, or the same after two seconds."""
        for _ in range(40):
            now = self._off_plane(view, world)
            if now != before:
                break
            self.page.wait_for_timeout(50)
        return now

    def click(self, world: list[float], view: str | None = None) -> None:
        self.go_to(world, view)
        x, y = self.page.evaluate(SCREEN, [view, world])
        self.page.mouse.move(x - 5, y - 5)
        self.page.mouse.move(x, y)
        self.page.mouse.click(x, y, delay=100)  # cornerstone's own tools need a press as long as a person's
        self.idle()

    def click_into_the_liver(self, series: Series) -> np.ndarray:
        """Open a phantom's series and click once: the mask of it."""
        self.open(series)
        self.choose("liver")
        self.tool("inside")
        self.click(series.world(LIVER, 40, 36))
        return self.masks(series)["liver"]

    def drag(self, corner: list[float], opposite: list[float], view: str | None = None) -> None:
        self.go_to(corner, view)
        self.page.mouse.move(*self.page.evaluate(SCREEN, [view, corner]))
        self.page.mouse.down()
        self.page.mouse.move(*self.page.evaluate(SCREEN, [view, opposite]), steps=5)
        self.page.mouse.up()
        self.idle()

    def masks(self, series: Series) -> dict[str, np.ndarray]:
        """Each structure's voxels in the order of the series' files, read from cornerstone's label map.

        In a volume view, the volume that is drawn must hold the same.
        """
        found = self.page.evaluate(IMAGES)
        if not found:
            return {}
        (label_map,) = found
        to_index = np.linalg.inv(series.to_world)
        shape = next(iter(series.truth.values())).shape
        values = np.zeros(shape, np.uint8)
        for image in label_map["images"]:
            place = (to_index @ [*image["origin"], 1])[:3]
            np.testing.assert_allclose(place, [round(place[0]), 0, 0], atol=0.01)
            pixels = np.frombuffer(base64.b64decode(image["voxels"]), np.uint8)
            values[round(place[0])] = pixels.reshape(image["rows"], image["columns"])
        volume = self.page.evaluate(VOLUME, label_map["id"])
        if volume:
            np.testing.assert_array_equal(on_series(volume, series), values)
        return {name: values == index for index, name in label_map["names"]}

    def paint(self, series: Series, indices: list[list[int]], value: int) -> None:
        """Set voxels of the label map, by index (slice, row, column), as OHIF's brush does."""
        for slice_, row, column in indices:
            self.page.evaluate(PAINT, [series.world(slice_, 0, 0), row, column, value])

    def keep(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    def _middle(self, view: str | None) -> tuple[float, float]:
        box = self.page.evaluate(
            f"(id) => {{ const b = ({VIEW})(id).canvas.getBoundingClientRect();"
            " return [b.left + b.width * 0.4, b.top + b.height / 2]; }",
            view,
        )
        return float(box[0]), float(box[1])


def on_series(volume: dict[str, Any], series: Series) -> np.ndarray:
    """A cornerstone volume's voxels in the order of the series' files."""
    to_world = np.eye(4)
    to_world[:3, :3] = np.reshape(volume["direction"], (3, 3)).T * volume["spacing"]
    to_world[:3, 3] = volume["origin"]
    voxels = np.frombuffer(base64.b64decode(volume["voxels"]), np.uint8).reshape(volume["shape"], order="F")
    return voxels[tuple(np.moveaxis(series.indices(np.linalg.inv(to_world)), -1, 0))]
