"""Which timestamps another topic takes and keeps."""

import pytest

from pipeline.core.timestamps import NONE, ORIGINAL_TIMESTAMP, Window, fitting, window

NOW = 1_800_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
BROKER = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY), "message.timestamp.type": "CreateTime"}


@pytest.mark.parametrize(
    ("configs", "age_ms", "kept"),
    [
        ({}, DAY, True),
        ({}, 8 * DAY, False),
        ({}, -2 * HOUR, False),
        ({}, -HOUR // 2, True),
        (BROKER, 6 * DAY, True),
        (BROKER, 7 * DAY - 1, False),
        (BROKER | {"retention.ms": "-1"}, 4000 * DAY, True),
        (BROKER | {"retention.ms": "-1"}, NOW - 1, True),
        (BROKER | {"retention.ms": "-1"}, NOW, False),
        (BROKER | {"retention.ms": "-1"}, NOW + 1, False),
        (BROKER | {"retention.ms": "60000"}, 30_000, True),
        (BROKER | {"retention.ms": "60000"}, 59_000, False),
        (BROKER | {"cleanup.policy": "compact"}, 4000 * DAY, True),
        (BROKER | {"cleanup.policy": "compact,delete"}, 8 * DAY, False),
        (BROKER | {"message.timestamp.before.max.ms": str(HOUR)}, 2 * HOUR, False),
        (BROKER | {"message.timestamp.before.max.ms": str(HOUR)}, HOUR // 2, True),
        (BROKER | {"message.timestamp.after.max.ms": str(2**63 - 1)}, -4000 * DAY, True),
        (BROKER | {"message.timestamp.after.max.ms": "1000"}, -900, False),
        (BROKER | {"message.timestamp.after.max.ms": "1000"}, -400, True),
        (BROKER | {"message.timestamp.difference.max.ms": str(HOUR)}, 2 * HOUR, False),
        (BROKER | {"message.timestamp.type": "LogAppendTime"}, 4000 * DAY, True),
    ],
)
def test_timestamp_is_kept_where_the_topic_takes_and_keeps_it(configs: dict[str, str], age_ms: int, kept: bool) -> None:
    written = NOW - age_ms
    headers = (("n", b"1"), (ORIGINAL_TIMESTAMP, b"7"))
    expected = (written, headers) if kept else (None, (("n", b"1"), (ORIGINAL_TIMESTAMP, str(written).encode())))
    assert fitting(written, headers, window(configs), NOW) == expected


def test_record_without_a_timestamp_has_none_to_keep() -> None:
    assert fitting(None, (), Window(), NOW) == (None, ())


def test_topic_that_refused_timestamps_gets_none_but_the_present() -> None:
    assert fitting(NOW, (), NONE, NOW)[0] is None
