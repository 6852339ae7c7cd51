"""The README's "Your own events", followed to the letter, on topics of the test's own."""

import shutil
import subprocess
import sys

import pytest

from tests.docs.own_events import write_into
from tests.integration.conftest import ROOT, Pipe

pytestmark = pytest.mark.integration


def test_event_of_the_readme_is_sent_handled_and_given_up(bare_pipe: Pipe) -> None:
    pipe = bare_pipe
    shutil.copy(ROOT / "schemas/topics.toml", pipe.schemas)
    write_into(pipe.home)
    # As the README has it, in the topic's own dead letters.
    shutil.copytree(ROOT / "schemas/orders.dlq.v1-value", pipe.schemas / "orders.dlq.v1-value")
    for name in ("TOPIC", "DEAD_LETTER_TOPIC", "CONSUMER_GROUP"):
        del pipe.env[f"PIPELINE_KAFKA__{name}"]
    for door, action in (("topics", "apply"), ("schemas", "register")):
        ended = pipe.run(door, action)
        assert ended.code == 0, ended.stderr
    sent = subprocess.run(
        [sys.executable, "shop/send.py"], env=pipe.env, cwd=pipe.home, capture_output=True, text=True, check=False
    )
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.count("error=None") == 2, sent.stdout
    ended = pipe.run(
        "consume", "--topic", "payments.v1", "--group", "payments", "--handler", "shop.payments:handle", "--until-end"
    )
    assert ended.code == 0, ended.stderr
    assert "] @ 0: P-1, 9.90" in ended.stderr
    assert "a payment has an amount" in pipe.run("deadletters", "list", "--key", "P-2").stdout
