"""Errors of an agent's function in the one kind whose words CVAT shows to the person who asked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import cvat_sdk.auto_annotation as cvataa

from biosam2_cvat.errors import BioSAM2Error

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def said_by_cvat(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Turn our errors into `BadFunctionError`: of any other, the agent tells CVAT "Unknown error" only."""

    @functools.wraps(function)
    def saying(*given: Given.args, **named: Given.kwargs) -> Answer:
        try:
            return function(*given, **named)
        except BioSAM2Error as error:
            raise cvataa.BadFunctionError(str(error)) from None

    return saying
