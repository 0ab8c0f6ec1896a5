"""What the page says about each version, made of its `version.json` and its results once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.server.status.plain import LONGEST_NAME, mapping, number, numbers, objects, text
from lib.versions.store import Version, Versions

MOST_VERSIONS = 200
MOST_STRUCTURES = 50

SITE = ("cases", "served", "candidate", "difference", "low", "high", "candidate_low", "candidate_high")
GENERAL = ("cases", "served", "candidate", "difference", "low", "high", "margin")
STRUCTURE = ("cases", "served", "candidate", "candidate_low", "candidate_high")


class Rounds:
    """The newest versions as the page shows them, each described anew only when `version.json` changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[dict[str, Any], dict[str, Any]]] = {}  # folder -> its about, described

    def newest(self, versions: Versions) -> tuple[list[Version], list[dict[str, Any]], int]:
        """The versions with the highest numbers.

        Returns
        -------
        versions : list of Version
            Newest first, at most `MOST_VERSIONS`.
        described : list of dict
            What the page says about each.
        left_out : int
            How many older ones there are.
        """
        with self._lock:
            found = versions.all()[::-1]
            shown = found[:MOST_VERSIONS]
            before, self._known = self._known, {}
            for version in shown:
                known = before.get(version.path)
                if known is None or known[0] is not version.about:  # read anew by the store
                    known = version.about, describe(version)
                self._known[version.path] = known
            return shown, [self._known[version.path][1] for version in shown], len(found) - len(shown)


def describe(version: Version) -> dict[str, Any]:
    """A version without what the page does not show.

    Returns
    -------
    dict
        The names of `version.json`; `labels`: `training` and `hold_out` (numbers of label files), `left_out`
        and `structures` (name -> label files); `site` and `general` as in its gate, or None.
    """
    about = version.about
    gate = mapping(about.get("gate"))
    return {
        "number": version.number,
        "name": text(version.name, LONGEST_NAME),
        "parent": version.parent,
        "created": text(about.get("created")),
        "state": text(about.get("state")),
        "reason": text(about.get("reason")),
        "pruned": version.is_pruned,
        "checkpoint": text(about.get("checkpoint")),
        "code": text(about.get("code"), LONGEST_NAME),
        "seconds": number(about.get("seconds")),
        "labels": _labels(about),
        "site": _site(mapping(gate.get("site"))),
        "general": numbers(mapping(gate["general"]), GENERAL) if mapping(gate.get("general")) else None,
    }


def _labels(about: Mapping[str, Any]) -> dict[str, Any]:
    used = objects(about.get("labels"))
    uses = Counter(text(one.get("use")) for one in used)
    names: Counter[str] = Counter()
    for one in used:
        listed = one.get("structures")
        names.update({text(name, LONGEST_NAME) for name in listed} if isinstance(listed, list) else ())
    return {
        "training": uses["training"],
        "hold_out": uses["hold-out"],
        "left_out": len(objects(about.get("left_out"))),
        "structures": dict(sorted(names.items(), key=lambda item: (-item[1], item[0]))[:MOST_STRUCTURES]),
    }


def _site(site: Mapping[str, Any]) -> dict[str, Any] | None:
    if not site:
        return None
    structures = {
        text(name, LONGEST_NAME): numbers(mapping(figures), STRUCTURE)
        for name, figures in mapping(site.get("structures")).items()
    }
    return {**numbers(site, SITE), "structures": structures}
