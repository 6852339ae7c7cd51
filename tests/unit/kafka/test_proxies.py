"""Proxies of the environment: never before this machine, and named where they are in between."""

import os
from contextlib import suppress

import pytest

from pipeline.errors import RegistryUnavailable, SettingsRefused
from pipeline.kafka.proxies import by_way_of, is_direct, without_proxies
from pipeline.kafka.registry import Registry
from tests.unit.kafka.test_registry import Answering, said

PROXY = "http://me:S3CRET@proxy.example:3128"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", [PROXY, "socks5://proxy.example:1080", "nonsense://proxy"])
@pytest.mark.parametrize("url", ["http://localhost:8081/apis", "http://127.0.0.1:8081", "http://[::1]:8081"])
def test_registry_on_this_machine_is_never_asked_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, name: str, proxy: str, url: str
) -> None:
    monkeypatch.setenv(name, proxy)
    with Registry(url) as registry:
        assert registry._client._rest_client.session._mounts == {}
    assert by_way_of(url) == ""
    assert os.environ[name] == proxy


def test_registry_elsewhere_is_asked_through_it_and_not_where_no_proxy_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    with Registry("http://registry.example") as registry:
        assert registry._client._rest_client.session._mounts
    assert "proxy.example:3128" in by_way_of("http://registry.example")
    assert by_way_of("https://registry.example") == ""
    monkeypatch.setenv("NO_PROXY", "registry.example")
    assert by_way_of("http://registry.example") == ""


@pytest.mark.parametrize(
    "answer", [{"error": OSError("no route")}, said(503, 50300), {"status": 407}, {"content": b"<html>Log in</html>"}]
)
def test_whatever_goes_wrong_behind_a_proxy_names_it_without_its_password(
    monkeypatch: pytest.MonkeyPatch, answer: dict[str, object]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    named = pytest.raises(RegistryUnavailable, match=r"by way of the proxy http://proxy.example:3128 ")
    with Registry("http://registry.example", client=Answering(**answer)) as registry, named as unavailable:
        registry.schema_by_id(7)
    assert "S3CRET" not in str(unavailable.value)


def test_proxy_that_cannot_be_used_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://me:S3CRET@proxy.example")
    with pytest.raises(SettingsRefused, match=r"by way of the proxy nonsense://proxy.example ") as refused:
        Registry("http://registry.example")
    assert "S3CRET" not in str(refused.value)


def test_environment_is_as_it_was_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    with suppress(KeyError), without_proxies():
        assert "HTTPS_PROXY" not in os.environ
        raise KeyError
    assert os.environ["HTTPS_PROXY"] == PROXY
    assert not is_direct("http://registry.example")


@pytest.mark.parametrize(
    ("url", "where"),
    [("http://h.example/?k=S3CRET", "http://h.example/"), ("http://u:S3CRET@h.example/a", "http://h.example/a")],
)
def test_registry_is_named_without_credentials_and_query(url: str, where: str) -> None:
    with Registry(url, client=Answering()) as registry:
        assert registry.where == where
