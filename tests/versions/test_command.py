"""scripts/versions, as a person calls it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "versions"


@pytest.fixture
def command(versions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs it and gives its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        options = ["--checkpoint", str(versions.base), "--versions", str(versions.folder.parent)]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, *arguments])
        status = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        out = capsys.readouterr()
        return status, out.out + out.err

    return run


def test_the_list_has_the_base_and_every_version(command, versions, add):
    add()
    add(state="kept", reason="not better by more than the noise", gate=None)
    add(gate={"site": {"served": 0.86, "candidate": None}}, reason="too few cases")
    versions.serve(1)
    status, text = command()
    assert status == 0
    lines = [line.split("  ") for line in text.splitlines()[2:]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    reason = "better on the site's structures"
    date = "2026-11-22 03:00"
    assert cells == [
        ["version", "date", "state", "served", "site Dice", "reason"],
        ["0", "base"],
        ["1", date, "published", "served", "0.710 -> 0.860", reason],
        ["2", date, "kept", "not better by more than the noise"],
        ["3", date, "published", "too few cases"],
    ]


def test_serve_rollback_and_prune(command, versions, add):
    for parent in (0, 1, 2):
        add(parent=parent)
    assert command("serve", "3") == (0, "nano-v3 is served now, version 0 was before\n")
    assert versions.served_number() == 3
    assert command("prune", "--keep", "1") == (0, "removed the checkpoints of versions 1\n")
    assert command("prune", "--keep", "1") == (0, "nothing to remove\n")
    assert command("rollback") == (0, "nano-v2 is served now, version 3 was before\n")
    status, text = command("rollback")
    assert status == 2 and text == "version 1 was pruned: its checkpoint is gone.\n"
    assert command("serve", "0")[0] == 0
    assert versions.served_path() == versions.base
    assert "pruned" in command()[1]


def test_what_cannot_be_done_is_one_sentence(command, versions, add):
    add()
    assert command("serve", "4") == (2, "version 4 is not one of 0, 1.\n")
    assert command("prune", "--keep", "0")[1].startswith("the number of versions to keep must be at least 1")
    status, text = command("--checkpoint", "nowhere.pt")
    assert status == 2 and text.startswith('checkpoint "nowhere.pt" is neither a file nor one of')
    assert versions.served_number() == 0
