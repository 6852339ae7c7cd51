"""Which names the app answers to, and from where a change may come."""

import pytest

from pipeline.api.hosts import Authority, authority, matcher


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("localhost", ("localhost", None)),
        ("LocalHost.:8000", ("localhost", 8000)),
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8000", ("::1", 8000)),
        ("[0:0:0:0:0:0:0:1]", ("::1", None)),
        ("localhost:", ("localhost", None)),
        ("a.b-c_d.example", ("a.b-c_d.example", None)),
    ],
)
def test_host_is_read_however_it_is_written(text: str, meant: tuple[str, int | None]) -> None:
    assert authority(text) == Authority(*meant)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..b", "user@localhost", "localhost@evil.example", "localhost:80:80", "localhost:x", "localhost:99999",
        "localhost/", "localhost/evil", "localhost?", "localhost#", "localhost\\evil", "localhost, evil.example",
        "localhost evil.example", "localhost\t", "localhost%2eevil.example", "::1", "[::1", "::1]", "[::1%25eth0]",
        "[localhost]", "[1.2.3]", "löcalhost", "localhost\x00", "localhost\n", "localhost..",
    ],
)  # fmt: skip
def test_what_is_no_host_is_none(text: str) -> None:
    assert authority(text) is None


def test_patterns_match_names_all_names_below_addresses_and_networks() -> None:
    matches = matcher(["localhost", "*.shop.example", "10.0.0.0/8", "::1", "[fd00::1]", "192.0.2.1"])
    for host in ("localhost", "a.shop.example", "a.b.shop.example", "10.1.2.3", "::1", "fd00::1", "192.0.2.1"):
        assert matches(host), host
    for host in (
        "shop.example", "evilshop.example", "localhost.evil.example", "evil.example", "11.0.0.1", "::2",
        "10.0.0.1.evil.example", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "::ffff:10.0.0.1", "",
    ):  # fmt: skip
        assert not matches(host), host
    assert not matcher([])("localhost")
