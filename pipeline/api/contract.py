"""The API's contract as OpenAPI says it: bodies, answers and examples. What is written here is tested against what is done."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pipeline.orders import ID_PATTERN

JSON = frozenset({"application/json"})
NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
DESCRIPTION = """Orders into Kafka, acknowledged. **202 comes only after the broker's acknowledgement.**

Everything else is a problem (RFC 9457) whose `type` names it. A `503` says what is known: `"outcome": "not_accepted"` is
surely not in the topic, `"outcome": "unknown"` is there at most once and may be sent again with the same order id."""
EXAMPLE = {"orderId": "A-1001", "customerId": "17850", "amount": "139.12", "timestampUtc": "2010-12-01T08:26:00Z"}
_PASCAL = {"OrderId": "A-1001", "CustomerId": "17850", "Amount": 139.12, "TimestampUtc": "2010-12-01T08:26:00.1234567Z"}


class Accepted(BaseModel):
    """The order is in the topic."""

    model_config = ConfigDict(alias_generator=to_camel)

    order_id: str
    topic: str


class FieldProblem(BaseModel):
    """What does not fit in one field."""

    field: str
    reason: str


class ProblemDetails(BaseModel):
    """RFC 9457; `requestId` finds it in the log."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        json_schema_extra={
            "example": {
                "type": "urn:orders-pipeline:problem:invalid-order",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "amount: Decimal input should have no more than 2 decimal places",
                "errors": [{"field": "amount", "reason": "Decimal input should have no more than 2 decimal places"}],
                "requestId": "4f1c0f0e-6d3c-4b0e-9a39-0d7f8f6a2f53",
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    outcome: str | None = Field(default=None, description="With 503: `not_accepted` or `unknown`.")
    errors: list[FieldProblem] | None = None


class StoredOrder(BaseModel):
    """An order, as the worker stored it."""

    model_config = ConfigDict(alias_generator=to_camel)

    order_id: str
    customer_id: str
    amount: str
    timestamp_utc: str


_ID = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": ID_PATTERN}
_ORDER = {
    "title": "Order",
    "type": "object",
    "description": "`OrderId` and `order_id` mean the same as `orderId`, and so for each name. Numbers are read exactly.",
    "required": ["orderId", "customerId", "amount", "timestampUtc"],
    "additionalProperties": False,
    "properties": {
        "orderId": _ID,
        "customerId": _ID,
        "amount": {
            "description": "At most two decimals and 18 digits; never rounded. Best as text.",
            "anyOf": [
                {"type": "string", "pattern": r"^-?[0-9]{1,16}(\.[0-9]{1,2})?$"},
                {"type": "number", "multipleOf": 0.01, "minimum": -9999999999999999, "maximum": 9999999999999999},
            ],
        },
        "timestampUtc": {
            "type": "string",
            "format": "date-time",
            "description": "With its zone. What is below a millisecond is cut off; .NET's seven digits are read.",
        },
    },
}
_WORDS = {
    400: "No JSON, or a malformed header",
    401: "No key, or one that is not known",
    404: "Not there",
    405: "Another method is meant",
    408: "The body came too slowly",
    409: "A request with this Idempotency-Key is in hand",
    413: "Larger than 1 MiB",
    415: "Not JSON in UTF-8, uncompressed",
    422: "No order: each field and the reason; or the Idempotency-Key came with another body",
    503: "Not now; `outcome` says what is known of the order",
}
_TRACE = {"name": "traceparent", "in": "header", "schema": {"type": "string"}, "description": "Travels on the record."}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These problems, as a route's `responses`."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {"description": _WORDS[status], "content": {"application/problem+json": {"schema": schema}}}
        for status in statuses
    }


PING: dict[str, Any] = {"responses": {200: {"content": {"text/plain": {"schema": {"const": "pong"}}}}}}
SEND: dict[str, Any] = {
    "response_model": Accepted,
    "responses": {
        202: {
            "description": "The order is in the topic",
            "headers": {
                "Location": {"schema": {"type": "string"}, "description": "Where it is once the worker stored it."},
                "Idempotency-Replayed": {"schema": {"const": "true"}, "description": "It was answered before."},
            },
        },
        **answers(400, 401, 408, 409, 413, 415, 422, 503),
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
                "description": "Sent twice with the same key and body, it is done once, as far as this process remembers.",
            },
            _TRACE,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ORDER,
                    "examples": {
                        "camelCase": {"value": EXAMPLE},
                        "PascalCase": {"summary": "As the C# clients send it", "value": _PASCAL},
                        "snake_case": {
                            "value": {
                                "order_id": "A-1001",
                                "customer_id": "17850",
                                "amount": "139.12",
                                "timestamp_utc": "2010-12-01T09:26:00+01:00",
                            }
                        },
                    },
                }
            },
        },
    },
}
BATCH: dict[str, Any] = {
    "responses": {
        200: {
            "description": "A line of JSON for each line that was not blank, in their order: `line`, and `status` with "
            "what a single order is answered. 10 000 lines at most.",
            "content": {
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"line": 1, "orderId": "A-1001", "status": 202, "topic": "orders.v1"}\n',
                }
            },
        },
        **answers(401, 415, 503),
    },
    "openapi_extra": {
        "parameters": [_TRACE],
        "requestBody": {
            "required": True,
            "content": {"application/x-ndjson": {"schema": {}, "example": '{"orderId": "A-1001", …}\n'}},
        },
    },
}
READ: dict[str, Any] = {"response_model": StoredOrder, "responses": answers(401, 404, 503)}
