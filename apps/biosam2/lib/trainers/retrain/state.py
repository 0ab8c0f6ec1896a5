"""What the server remembers of its own trainings from one start to the next: a file that is always whole."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

logger = logging.getLogger(__name__)


class Last(BaseModel):
    """The last training that began.

    Attributes
    ----------
    id : str
        As the server names it; "" while it is not known yet whether it has begun.
    because : str
        What it was started for.
    planned : bool
        Whether the plan asked for it, not a person.
    ended : datetime, optional
        Missing while it runs.
    result : str
        One sentence; "" while it runs.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    started: AwareDatetime
    because: str
    planned: bool
    ended: AwareDatetime | None = None
    result: str = ""


class State(BaseModel):
    """What is remembered; never changed, only replaced, so that any thread may read it.

    Attributes
    ----------
    plan : str
        The plan that the rest was written under.
    times_until : datetime
        The times of the plan up to here are dealt with.
    labels : dict of str to str
        Image -> fingerprint of its label, when the last training began.
    unlearned : bool
        Whether the last training did not come to its end, so that nothing was learned of these labels.
    interrupted : int
        How many trainings in a row ended with the server.
    due_since : datetime, optional
        Missing when no training is due.
    because : str
        What a training is due for.
    waiting_for : str, optional
        Why a training that is due has not begun.
    warned : bool
        Whether it was said that it waits for long.
    note : str, optional
        Why nothing was started at the last time of the plan.
    last : Last, optional
    """

    model_config = ConfigDict(frozen=True)

    plan: str
    times_until: AwareDatetime
    labels: dict[str, str] = {}
    unlearned: bool = False
    interrupted: int = 0
    due_since: AwareDatetime | None = None
    because: str = ""
    waiting_for: str | None = None
    warned: bool = False
    note: str | None = None
    last: Last | None = None


def load(path: Path, plan: str, now: datetime) -> State:
    """The remembered state; a new one where there is none, or none that can be read.

    Under another plan than before, what was due is not any more, and times in the past do not count.
    """
    fresh = State(plan=plan, times_until=now)
    try:
        state = State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return fresh
    except (ValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        logger.error("%s cannot be read, so that all labels count as new: %s", path, reason)
        return fresh
    if state.plan != plan:
        left = {"due_since": None, "because": "", "waiting_for": None, "warned": False, "note": None}
        state = state.model_copy(update={"plan": plan, "times_until": now, **left})
    return state


def save(path: Path, state: State) -> None:
    """Replace the file at once: who is killed in the middle leaves the old one.

    Raises
    ------
    OSError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w") as stream:
        stream.write(state.model_dump_json(indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
