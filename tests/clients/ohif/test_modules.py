"""The panel's own arithmetic, run in the browser without OHIF: grids, files, label maps, prompts."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from playwright.sync_api import Browser
from scipy.spatial.transform import Rotation

from lib.prompts.dialects import runs

CLIENT = Path(__file__).resolve().parents[3] / "apps" / "biosam2" / "clients" / "ohif"
SHAPE = (7, 6, 5)


@pytest.fixture(scope="module")
def run(browser: Browser) -> Iterator[Callable[..., Any]]:
    """Run the body of a JavaScript function; `geometry`, `files`, `labels`, `prompts` are our modules."""
    page = browser.new_page()

    def answer(route: Any) -> None:
        name = route.request.url.rsplit("/", 1)[-1]
        if name.endswith(".js"):
            route.fulfill(body=(CLIENT / name).read_bytes(), content_type="text/javascript")
        else:
            route.fulfill(body="<html></html>", content_type="text/html")

    page.route("**/*", answer)
    page.goto("http://panel.test/")
    names = ("geometry", "files", "labels", "prompts")
    imports = " ".join(f"const {name} = await import('/{name}.js');" for name in names)
    yield lambda body, given=None: page.evaluate(f"async (given) => {{ {imports} {body} }}", given)
    page.close()


def _grid(turn: tuple[float, float, float], flip: tuple[int, int, int] = (1, 1, 1)) -> dict[str, Any]:
    to_world = np.eye(4)
    matrix = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    to_world[:3, :3] = matrix * np.multiply((0.8, 0.9, 2.5), flip)
    to_world[:3, 3] = (-12.5, 30, 7)
    return {"shape": list(SHAPE), "slice_axis": 2, "to_world": to_world.tolist()}


GRIDS = {
    "straight": _grid((0, 0, 0)),
    "oblique": _grid((20, -15, 9)),
    "flipped": _grid((0, 0, 0), (-1, -1, -1)),
}


@pytest.mark.parametrize("name", GRIDS)
def test_world_and_voxels_lead_to_each_other(run, name):
    grid = GRIDS[name]
    found = run(
        "const grid = new geometry.Grid(given); const world = grid.world([3, 1.5, 4]);"
        " return [world, grid.index(world)];",
        grid,
    )
    np.testing.assert_allclose(found[0], (np.array(grid["to_world"]) @ [3, 1.5, 4, 1])[:3])
    np.testing.assert_allclose(found[1], [3, 1.5, 4], atol=1e-9)


@pytest.mark.parametrize("name", GRIDS)
def test_a_view_belongs_to_the_axis_it_looks_along(run, name):
    normals = np.array(GRIDS[name]["to_world"])[:3, :3].T
    tilted = normals[2] / 2.5 + 0.3 * normals[0]
    found = run(
        "const grid = new geometry.Grid(given[0]); return given[1].map((normal) => grid.axisOf(normal));",
        [GRIDS[name], [*normals.tolist(), (-normals[1]).tolist(), tilted.tolist()]],
    )
    assert found == [0, 1, 2, 1, None]


@pytest.mark.parametrize("name", GRIDS)
def test_a_submitted_file_has_each_voxel_in_its_place(run, name):
    voxels = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    content = run(
        "const file = await files.writeNifti(Uint8Array.from(given[1]), new geometry.Grid(given[0]));"
        " return btoa(String.fromCharCode(...new Uint8Array(await file.arrayBuffer())));",
        [GRIDS[name], voxels.ravel(order="F").tolist()],
    )
    stored = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content)))
    np.testing.assert_array_equal(np.asarray(stored.dataobj), voxels)
    assert stored.get_data_dtype() == np.uint8
    to_lps = np.diag([-1.0, -1, 1, 1]) @ stored.affine
    np.testing.assert_allclose(to_lps, GRIDS[name]["to_world"], atol=1e-5)
    assert stored.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_an_answer_is_read_whether_it_is_packed_or_not(run, encoding):
    voxels = np.arange(210, dtype=np.uint8)
    head = f"NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 7 6 5\nencoding: {encoding}\n\n".encode()
    content = head + (gzip.compress(voxels.tobytes()) if encoding == "gzip" else voxels.tobytes())
    found = run(
        "const { shape, voxels } = await files.readNrrd(Uint8Array.from(given).buffer);"
        " return [shape, [...voxels]];",
        list(content),
    )
    assert found == [[7, 6, 5], voxels.tolist()]


def test_an_answer_that_is_cut_short_is_refused(run):
    head = b"NRRD0004\ntype: unsigned char\nsizes: 7 6 5\nencoding: raw\n\nabc"
    found = run("return files.readNrrd(Uint8Array.from(given).buffer).catch((e) => e.message);", list(head))
    assert found == "the answer has 3 voxels, its header says 7 x 6 x 5"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_runs_of_a_slice_are_those_the_server_reads(run, axis):
    mask = np.random.default_rng(2).random(SHAPE) > 0.4
    found = run(
        "const grid = new geometry.Grid(given[0]);"
        " return prompts.runsOf(grid, given[1], 3, (flat) => given[2][flat]);",
        [GRIDS["straight"], axis, mask.ravel(order="F").tolist()],
    )
    place = tuple(3 if a == axis else slice(None) for a in range(3))
    expected = np.zeros_like(mask)
    expected[place] = mask[place]
    assert found == runs(expected)["rle"]


def test_images_in_any_order_and_turn_get_the_voxels_of_their_place(run):
    """Images run against k, their rows along j and against i, as a flipped sagittal series has them."""
    answer = np.random.default_rng(3).random(SHAPE) > 0.5
    found = run(
        """
        const grid = new geometry.Grid(given[0]);
        const step = (axis, sign) => grid.steps[axis].map((x) => sign * x);
        const slices = [4, 2, 0, 1, 3].map((k) => {
            const slice = { columns: 6, rows: 7, voxels: new Uint8Array(42),
                            origin: grid.world([6, 0, k]), right: step(1, 1), down: step(0, -1) };
            return { ...slice, place: grid.place(slice) };
        });
        labels.replace(slices, 2, Uint8Array.from(given[1], Number), grid, { axis: 2, first: 1, last: 3 });
        return [slices.map(({ voxels }) => [...voxels]), [...labels.whole(slices, grid.size)]];
        """,
        [GRIDS["oblique"], answer.ravel(order="F").tolist()],
    )
    expected = answer * 2
    expected[:, :, [0, 4]] = 0
    np.testing.assert_array_equal(np.reshape(found[1], SHAPE, order="F"), expected)
    np.testing.assert_array_equal(np.reshape(found[0][1], (7, 6)), expected[::-1, :, 2])


def test_an_image_off_the_servers_voxels_has_no_place(run):
    found = run(
        "const grid = new geometry.Grid(given);"
        " const image = { columns: 7, rows: 6, right: grid.steps[0], down: grid.steps[1] };"
        " const places = [[0, 0, 0.4], [0.5, 0, 0], [0, 0, 5]];"
        " return places.map((at) => grid.place({ ...image, origin: grid.world(at) }));",
        GRIDS["straight"],
    )
    assert found == [None, None, None]


def test_a_change_is_undone_and_done_again_around_what_others_painted(run):
    found = run(
        """
        const grid = new geometry.Grid(given);
        const slice = { columns: 7, rows: 6, voxels: new Uint8Array(42), origin: grid.world([0, 0, 0]),
                        right: grid.steps[0], down: grid.steps[1] };
        const slices = [{ ...slice, place: grid.place(slice) }];
        slice.voxels[0] = 9;
        const all = { axis: 2, first: 0, last: 4 };
        const answer = new Uint8Array(210).fill(1, 0, 4);
        const change = labels.replace(slices, 1, answer, grid, all);
        const seen = [[...slice.voxels.slice(0, 5)]];
        slice.voxels[2] = 7;
        labels.undo(slices, change);
        seen.push([...slice.voxels.slice(0, 5)]);
        labels.redo(slices, change);
        seen.push([...slice.voxels.slice(0, 5)]);
        return seen;
        """,
        GRIDS["straight"],
    )
    assert found == [[9, 1, 1, 1, 0], [9, 0, 7, 0, 0], [9, 1, 7, 1, 0]]


def test_found_structures_go_where_nothing_is_marked_and_are_undone_one_by_one(run):
    found = run(
        """
        const grid = new geometry.Grid(given);
        const slices = [3, 0].map((k) => {
            const slice = { columns: 7, rows: 6, voxels: new Uint8Array(42), origin: grid.world([0, 0, k]),
                            right: grid.steps[0], down: grid.steps[1] };
            return { ...slice, place: grid.place(slice) };
        });
        slices[0].voxels[1] = 9;
        const answer = new Uint8Array(210);
        answer.set([4, 4, 200, 5], 3 * 42);
        answer[0] = 200;
        const changes = labels.fill(slices, new Map([[4, 2], [200, 1], [6, 3]]), answer);
        const seen = [changes.map(({ value }) => value)];
        const note = () => seen.push(slices.map(({ voxels }) => [...voxels.slice(0, 5)]));
        note();
        labels.undo(slices, changes[0]);
        note();
        labels.redo(slices, changes[0]);
        labels.undo(slices, changes[1]);
        note();
        return seen;
        """,
        GRIDS["oblique"],
    )
    assert found[0] == [2, 1]
    assert found[1] == [[2, 9, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert found[2] == [[0, 9, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert found[3] == [[2, 9, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_prompts_are_values_and_a_box_replaces_the_one_on_its_slice(run):
    found = run(
        """
        const { NONE, withPoint, withBox, between, asObject } = prompts;
        const one = withBox(withPoint(NONE, [1.004, 2, 3], true, 2), [5, 4, 3], [2, 1, 3.4], 2);
        const two = withBox(one, [1, 1, 3], [4, 4, 3], 2);
        const far = between(two, 2, 4, 4).points.length;
        return [NONE, asObject(two, "liver", [7, 6, 5]), far, one.boxes[0].low];
        """
    )
    assert found[0] == {"points": [], "boxes": [], "starts": [], "axis": None}
    assert found[1] == {
        "label": "liver",
        "foreground": [[1, 2, 3]],
        "background": [],
        "boxes": [[1, 1, 3, 4, 4, 3]],
    }
    assert found[2:] == [0, [2, 1, 3]]
