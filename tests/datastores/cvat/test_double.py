"""The double speaks as CVAT does: the SDK's own client and models take what it answers."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cvat_sdk import Client
from cvat_sdk.core.client import Config, PasswordCredentials
from cvat_sdk.core.helpers import get_paginated_collection

from .double import NAME, PASSWORD, Cvat


@pytest.fixture
def sdk(current: Cvat) -> Iterator[Client]:
    client = Client(current.url, config=Config(status_check_period=0.01))
    client.login(PasswordCredentials(NAME, PASSWORD))
    yield client
    client.api_client.close()


def test_the_sdk_finds_every_page_of_every_list(sdk: Client):
    api = sdk.api_client
    names = [project.name for project in get_paginated_collection(api.projects_api.list_endpoint)]
    assert names == ["Endoscopy", "Cells", "Empty"]
    assert [task.id for task in get_paginated_collection(api.tasks_api.list_endpoint)] == [1, 2, 7]
    jobs = get_paginated_collection(api.jobs_api.list_endpoint)
    assert [(job.id, job.state) for job in jobs][:2] == [(1, "completed"), (2, "in progress")]
    assert jobs[4].type == "ground_truth"
    assert {label.name for label in get_paginated_collection(api.labels_api.list_endpoint)} == {
        *("polyp", "tool", "background", "cell")
    }


def test_the_sdk_reads_frames_and_annotations(sdk: Client, current: Cvat):
    task = sdk.tasks.retrieve(2)
    meta = task.get_meta()
    assert (meta.size, meta.start_frame, meta.frame_filter, meta.deleted_frames) == (12, 4, "step=2", [5])
    assert task.get_frame(3, quality="original").read() == current.tasks[2].pictures[3].content
    drawn = task.get_annotations()
    assert [shape.outside for shape in drawn.tracks[0].shapes] == [False, False, True]
    assert sdk.tasks.retrieve(1).get_annotations().shapes[1].rotation == 30


def test_the_sdk_exports_a_task(sdk: Client, tmp_path: Path):
    file = tmp_path / "export.zip"
    # it follows the address that the server names, which here is another host's
    request = sdk.tasks.retrieve(1)
    with pytest.MonkeyPatch.context() as patch:
        from cvat_sdk.core.downloading import Downloader

        download = Downloader.download_file
        patch.setattr(
            Downloader,
            "download_file",
            lambda self, url, output_path, **more: download(
                self,
                url.replace("http://cvat_server:8080", sdk.api_map.host),
                output_path=output_path,
                **more,
            ),
        )
        request.export_dataset("CVAT for images 1.1", file, include_images=False)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["annotations.xml"]
