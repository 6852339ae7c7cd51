"""A redrive from the page: what is malformed is answered so, and each letter's destination is shown."""

import asyncio
from types import SimpleNamespace
from typing import Any, Self

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from pipeline import wiring
from pipeline.api import dashboard
from pipeline.api.problems import Problem
from pipeline.api.redriving import Redriving
from pipeline.core.record import Record
from pipeline.core.redrive import Selection
from pipeline.settings import Settings
from pipeline.stages.letters import StoredLetter
from pipeline.stages.redrive import Outlook


def page(redriving: Any = None) -> TestClient:
    app = FastAPI()
    service: Any = SimpleNamespace(redriving=redriving, watch=None, settings=Settings(), stopping=asyncio.Event())
    app.include_router(dashboard.routes(service))
    app.add_exception_handler(Problem, lambda request, problem: problem.response("r"))  # type: ignore[attr-defined]
    return TestClient(app)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"selection": ' + "[" * 100_000 + "]" * 100_000 + ', "dry_run": true}', 400),
        ('{"selection": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + ', "dry_run": true}', 400),
        ('{"selection": {"ids": ["' + "1" * 5000 + ':1"]}, "dry_run": true}', 422),
        ('{"selection": {"ids": ["1:' + "1" * 5000 + '"]}, "dry_run": true}', 422),
        ('{"selection": {"source": "a:' + "1" * 5000 + '"}, "dry_run": true}', 422),
        ('{"selection": {"key": "hex:1"}, "dry_run": true}', 422),
        ('{"selection": {"ids": ["1:1"]}, "dry_run": false, "expect": ' + "1" * 5000 + "}", 400),
        ('{"selection": {"ids": ["1:1"]}, "dry_run": false, "expect": Infinity}', 400),
        ('{"selection": {}, "dry_run": true}', 422),
        ("[]", 400),
        ("\ud800".encode("utf-8", "surrogatepass"), 400),
    ],
)
def test_malformed_redrive_is_the_callers_fault_and_answered_shortly(body: str | bytes, status: int) -> None:
    answer = page().post("/dashboard/redrive", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert len(answer.content) < 1000


def test_redrive_that_is_shown_names_the_topic_of_each_letter_and_ends_with_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letter = StoredLetter(Record("dlq", 0, 7, b"\x00", b"v"), None)
    outlooks = [
        Outlook(letter, "decodes", "as orders.v1 is read now", "orders.v1"),
        Outlook(letter, "skipped", "no", None),
    ]

    class Stage:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def plan(self, selection: Selection) -> None: ...

        def preview(self, plan: None) -> list[Outlook]:
            return outlooks

    monkeypatch.setattr(wiring, "redrive", lambda settings, selection: Stage())
    shown = Redriving(Settings(), lambda: False, lambda letters: 0).preview(Selection())
    assert (shown["selected"], shown["outcomes"]) == (2, {"decodes": 1, "skipped": 1})
    assert [(row["id"], row["key"], row["to"]) for row in shown["rows"]] == [
        ("0:7", "hex:00", "orders.v1"),
        ("0:7", "hex:00", None),
    ]
    assert Redriving(Settings(), lambda: True, lambda letters: 0).preview(Selection())["selected"] == 0
