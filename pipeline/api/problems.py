"""What the API answers when it does not do what was asked: problem details (RFC 9457), without internals.

`type` is a name that programs compare and that never changes; `detail` is for people. What is not done is said so:
`outcome` is `not_accepted` (surely not in the topic) or `unknown` (in the topic at most once).
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
DETAIL_CHARACTERS_MAX = 2_000
NOT_ACCEPTED = {"outcome": "not_accepted"}
UNKNOWN = {"outcome": "unknown"}


class Problem(Exception):
    """An answer that is a problem; raised anywhere on the way of a request. `more` are further members of it.

    It is bounded, whatever was asked: a detail of 2 000 characters.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.members: dict[str, Any] = {
            "type": f"urn:orders-pipeline:problem:{name}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail if len(detail) <= DETAIL_CHARACTERS_MAX else detail[: DETAIL_CHARACTERS_MAX - 1] + "…",
            **(more or {}),
        }

    def response(self, request_id: str) -> Response:
        """As it is sent."""
        body = json.dumps({**self.members, "requestId": request_id}, ensure_ascii=False).encode()
        return Response(body, self.status, self.headers, MEDIA_TYPE)


def busy(name: str, detail: str, **more: Any) -> Problem:
    """503 with `Retry-After`: not done, and may be tried again."""
    return Problem(503, name, detail, headers={"Retry-After": str(RETRY_AFTER_S)}, more=more)


def queue_full() -> Problem:
    """503: surely not in the topic."""
    return busy("queue-full", "Too many orders wait for the broker's word. This one was not taken.", **NOT_ACCEPTED)
