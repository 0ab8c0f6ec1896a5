"""CVAT's tracker: objects followed from picture to picture; the server keeps what it remembers of them."""

from __future__ import annotations

from typing import Any

from biosam2_cvat import gateway, shapes, tracking


def init_context(context: Any) -> None:
    gateway.prepare(context)
    context.user_data.tolerance = gateway.number_setting("BIOSAM2_TOLERANCE", shapes.TOLERANCE)
    context.user_data.lost = gateway.setting("BIOSAM2_LOST", tracking.KEEP, (tracking.KEEP, tracking.NONE))


def handler(context: Any, event: Any) -> Any:
    data = context.user_data
    return gateway.reply(
        context, event, lambda server, request: tracking.follow(server, request, data.tolerance, data.lost)
    )
