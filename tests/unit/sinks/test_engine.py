"""A database URL: what is refused of it before anything is connected to, and what is said of it."""

import sys

import pytest

from pipeline.errors import SettingsRefused
from pipeline.sinks.engine import engine_for, where
from pipeline.sinks.sql import OrderStore


@pytest.fixture(autouse=True)
def no_libpq_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPASSWORD", "PGSSLMODE", "PGREQUIREAUTH", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_spoken_to_by_psycopg_however_it_is_spelled(scheme: str) -> None:
    assert engine_for(f"{scheme}://user@host/orders", 15).url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://localhost/db?user=u&password=S3CRET", "postgresql+psycopg://localhost/db"),
        ("postgresql+psycopg://u:S3CRET@localhost:5432/db", "postgresql+psycopg://localhost:5432/db"),
        ("postgresql+psycopg://u:S3CRET://S3CRET@localhost/db", "postgresql+psycopg://localhost/db"),
        ("sqlite:////tmp/orders.db?timeout=1", "sqlite:////tmp/orders.db"),
    ],
)
def test_database_is_named_without_user_password_and_query(url: str, shown: str) -> None:
    assert where(engine_for(url, 15)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:S3CRET",  # taken for a port
        "postgresql+psycopg://u:pw@S3CRET@localhost/db",  # taken for a part of the host
        "postgresql+psycopg2://u:S3CRET@localhost/db",
        "postgresql+asyncpg://u:S3CRET@localhost/db",
        "mysql://u:S3CRET@localhost/db",
        "u:S3CRET@localhost/db",
    ],
)
def test_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsRefused, match="PIPELINE_STORE__URL") as refused:
        engine_for(url, 15)
    assert "S3CRET" not in str(refused.value)


def test_missing_driver_is_told_in_a_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsRefused, match=r"pip install 'orders-pipeline\[postgres\]'"):
        OrderStore("postgresql+psycopg://user@host/orders")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:S3CRET@db.example/orders",
        "postgresql://u:S3CRET@db.example/orders?sslmode=prefer",
        "postgresql://u:S3CRET@db.example/orders?sslmode=disable",
        "postgresql://u:S3CRET@/orders?host=localhost:5432&host=db.example:5432",
        "postgresql://localhost/orders?user=u&password=S3CRET&hostaddr=10.0.0.1",
        "postgresql://u:S3CRET@db.example/orders?require_auth=password",
        "postgresql://u:S3CRET@db.example/orders?require_auth=!scram-sha-256",
    ],
)
def test_password_that_another_machine_could_ask_for_in_clear_is_refused(url: str) -> None:
    with pytest.raises(SettingsRefused, match="perhaps unencrypted") as refused:
        engine_for(url, 15)
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:S3CRET@localhost/orders",
        "postgresql://u:S3CRET@127.0.0.1:5432/orders",
        "postgresql://u:S3CRET@[::1]:5432/orders",
        "postgresql://u:S3CRET@/orders?host=/var/run/postgresql",
        "postgresql://u:S3CRET@/orders",
        "postgresql://u@db.example/orders",
        "postgresql://u:S3CRET@db.example/orders?sslmode=require",
        "postgresql://u:S3CRET@db.example/orders?sslmode=verify-full",
        "postgresql://u:S3CRET@db.example/orders?require_auth=scram-sha-256",
    ],
)
def test_password_that_stays_here_or_goes_encrypted_is_let_through(url: str) -> None:
    assert engine_for(url, 15).url.password in {"S3CRET", None}


def test_password_of_the_environment_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "S3CRET")
    with pytest.raises(SettingsRefused, match="perhaps unencrypted"):
        engine_for("postgresql://u@db.example/orders", 15)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    engine_for("postgresql://u@db.example/orders", 15)
