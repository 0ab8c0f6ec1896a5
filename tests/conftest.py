"""Tests of one folder run one after the other, and share its servers; two folders run at once."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# minutes each: begun last, one of them would run on while nothing is left for the other process
LONGEST = ("tests/scripts", "tests/clients/ohif", "tests/trainers/finetune", "tests/benchmarks")


class ByFolder(LoadScopeScheduling):
    """pytest-xdist gives a folder's tests to one process, and none of them to another; the longest first."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        # xdist's own order, by the number of tests, has the folders of few long ones last
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return _folder(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """How the tests are shared out with `-n`."""
    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders that take longest come first; within one the order stays."""
    order = {folder: place for place, folder in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(_folder(item.nodeid), len(order)))


def _folder(nodeid: str) -> str:
    return nodeid.split("::")[0].rpartition("/")[0]
