"""When the server trains by itself: after so many new labels, at the times of a crontab line, or both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

OFF = "off"
MEANT = 'off, a number of new labels ("20 labels"), a cron time ("0 3 * * *"), or both separated by ";"'

_LABELS = re.compile(r"([0-9]{1,6})(\s+labels?)?", re.IGNORECASE)
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY_ITEM = re.compile(r"(?:(\*)|([0-7])(?:-([0-7]))?)(?:/([1-7]))?")


@dataclass(frozen=True)
class Plan:
    """When to train; at least one of the two is given.

    Attributes
    ----------
    labels : int, optional
        Train when so many labels are new or changed.
    cron : str, optional
        Train at these times: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday; a
        line that restricts both kinds of day means either, as cron has it).
    """

    labels: int | None = None
    cron: str | None = None

    @classmethod
    def parse(cls, text: str) -> Plan | None:
        """The plan that a person has written, such as "20 labels; 0 3 * * *"; None is "off".

        An underscore counts as a space, which the `monailabel` command does not let through.

        Raises
        ------
        ValueError
            If it is something else, or a time that never comes.
        """
        text = text.replace("_", " ")
        if text.strip().lower() == OFF:
            return None
        labels, cron = None, None
        for part in (part.strip() for part in text.split(";")):
            number = _LABELS.fullmatch(part)
            if number and labels is None and int(number[1]) > 0:
                labels = int(number[1])
            elif not number and cron is None:
                cron = " ".join(part.split())
            else:
                raise ValueError(f"{part!r} is no number of labels, or one too many")
        plan = cls(labels, cron)
        if cron is not None and plan.next_time(datetime.now(UTC)) is None:
            raise ValueError(f"{cron!r} never comes")
        return plan

    def __str__(self) -> str:
        parts = [f"{self.labels} label{'s' * (self.labels > 1)}"] if self.labels else []
        return "; ".join([*parts, self.cron] if self.cron else parts)

    def next_time(self, after: datetime) -> datetime | None:
        """The first time of the crontab line later than another time, in whose zone it is meant.

        Raises
        ------
        ValueError
            If the line is not one of a crontab; never for a plan that was parsed.
        """
        if self.cron is None:
            return None
        # the trigger also takes a time that is now
        return _trigger(self.cron, after).get_next_fire_time(None, after + timedelta(microseconds=1))


def _trigger(cron: str, now: datetime) -> CronTrigger | OrTrigger:
    fields = cron.split()
    if len(fields) != 5:
        raise ValueError(f"{cron!r} has not five fields")
    first, weekdays = " ".join(fields[:4]), _weekdays(fields[4])
    zone = now.tzinfo
    if weekdays != "*" and not fields[2].startswith("*"):
        # APScheduler means both kinds of day at once
        minute, hour, _, month = fields[:4]
        return OrTrigger(
            [
                CronTrigger.from_crontab(f"{first} *", zone),
                CronTrigger.from_crontab(f"{minute} {hour} * {month} {weekdays}", zone),
            ]
        )
    return CronTrigger.from_crontab(f"{first} {weekdays}", zone)


def _weekdays(field: str) -> str:
    """The days of the week by name: for APScheduler 3 the number 0 is Monday, for crontab Sunday."""
    if field == "*":
        return field
    numbered = field.lower()
    for number, name in enumerate(_DAYS):
        numbered = re.sub(rf"\b{name}\b", str(number), numbered)
    days: set[int] = set()
    for item in numbered.split(","):
        found = _DAY_ITEM.fullmatch(item)
        if not found:
            raise ValueError(f"{field!r} are no days of the week")
        every, first, last, step = found.groups()
        begin = 0 if every else int(first)
        end = 6 if every else int(last or (6 if step else first))
        if end < begin:  # friday to monday
            end += 7
        days.update(day % 7 for day in range(begin, end + 1, int(step or 1)))
    return ",".join(_DAYS[day] for day in sorted(days))
