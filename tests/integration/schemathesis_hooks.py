"""What Schemathesis cannot know of the API: how lines of JSON are written, and that a key belongs to one body."""

from typing import Any
from uuid import uuid4

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    if (case.headers or {}).get("Idempotency-Key", "").isalnum():
        case.headers["Idempotency-Key"] = uuid4().hex
