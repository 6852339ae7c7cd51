"""What the local stack decides without starting anything. The rest: tests/integration/test_local_stack.py."""

from uuid import UUID

import pytest

from pipeline.local import broker


def test_cluster_id_never_begins_with_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 64 would, and `StorageTool format -t -abc` is refused: the first `make up` on a machine failed."""
    drawn = iter([UUID(bytes=b"\xf8" + bytes(15)), UUID(bytes=b"\xfb" * 16), UUID(bytes=bytes(16))])
    monkeypatch.setattr(broker.uuid, "uuid4", lambda: next(drawn))
    assert broker.new_cluster_id() == "A" * 22
