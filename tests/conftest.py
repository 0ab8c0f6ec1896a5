"""Tests of one folder run one after the other, and share its servers; two folders run at once."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByFolder(LoadScopeScheduling):
    """pytest-xdist gives a folder's tests to one process, and none of them to another."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::")[0].rpartition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    """How the tests are shared out with `-n`."""
    return ByFolder(config, log)
