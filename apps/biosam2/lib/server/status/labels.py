"""Final labels by structure and by week, counted anew only when the datastore has changed."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.server.status.plain import LONGEST_NAME, mapping, number, objects, text

logger = logging.getLogger(__name__)

FINAL = DefaultLabelTag.FINAL.value
MOST_WEEKS = 104
MOST_STRUCTURES = 50
UNNAMED = ""  # a label that does not say what its values stand for
OTHERS = None  # the structures beyond `MOST_STRUCTURES`, together


class Labels:
    """The counts of one datastore at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: object = None
        self._counts: dict[str, Any] | None = None

    def count(self, datastore: Datastore, now: float) -> dict[str, Any] | None:
        """The counts.

        Returns
        -------
        dict or None
            `images`, `labelled`: how many there are, as far as this server knows them; `weeks`: Mondays (UTC)
            from the first label's week to this one, at most `MOST_WEEKS`; `labels`: label files of each week;
            `earlier`: those before; `structures`: `name`, `count` and, for each week, `weeks`, most frequent
            first. None where the datastore keeps no table of its labels.
        """
        if not isinstance(datastore, LocalDatastore):
            return None
        monday = _monday(now)
        key = id(datastore), _stamp(datastore), monday
        with self._lock:
            if self._counts is None or key != self._key:
                try:
                    self._counts, self._key = _count(datastore.json(), monday), key
                except (
                    RuntimeError
                ):  # a label came into a PACS's table at this moment: the next look counts it
                    logger.debug("the labels are counted at the next look", exc_info=True)
            return self._counts


def _stamp(datastore: LocalDatastore) -> tuple[int, int, int] | None:
    # every change of the table is written to this file at once
    try:
        found = os.stat(datastore._datastore_config_path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _count(table: dict[str, Any], this_week: date) -> dict[str, Any]:
    by_week: Counter[date] = Counter()
    by_structure: defaultdict[str, Counter[date]] = defaultdict(Counter)
    entries = mapping(table.get("objects"))
    for entry in entries.values():
        label = mapping(entry.get("labels")).get(FINAL)
        if not label:
            continue
        info = mapping(label.get("info"))
        week = min(_monday(number(info.get("ts")) or 0), this_week)  # clocks may be wrong
        by_week[week] += 1
        names = {text(one.get("name"), LONGEST_NAME) for one in objects(info.get("label_info"))}
        for name in names or {UNNAMED}:
            by_structure[name][week] += 1
    weeks = _weeks(min(by_week, default=this_week), this_week)
    ranked = sorted(by_structure.items(), key=lambda item: (-item[1].total(), item[0]))
    structures = [_structure(name, counts, weeks) for name, counts in ranked[:MOST_STRUCTURES]]
    if len(ranked) > MOST_STRUCTURES:
        rest: Counter[date] = Counter()
        for _, counts in ranked[MOST_STRUCTURES:]:
            rest.update(counts)
        structures.append(_structure(OTHERS, rest, weeks))
    shown = [by_week[week] for week in weeks]
    return {
        "images": len(entries),
        "labelled": by_week.total(),
        "weeks": [str(week) for week in weeks],
        "labels": shown,
        "earlier": by_week.total() - sum(shown),
        "structures": structures,
    }


def _structure(name: str | None, counts: Counter[date], weeks: list[date]) -> dict[str, Any]:
    return {"name": name, "count": counts.total(), "weeks": [counts[week] for week in weeks]}


def _weeks(first: date, last: date) -> list[date]:
    count = min((last - first).days // 7 + 1, MOST_WEEKS)
    return [last - timedelta(weeks=back) for back in reversed(range(count))]


def _monday(moment: float) -> date:
    try:
        day = datetime.fromtimestamp(moment, UTC).date()
    except (OverflowError, OSError, ValueError):
        day = date(1970, 1, 1)
    return day - timedelta(days=day.weekday())
