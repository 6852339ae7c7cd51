"""From a database URL to an engine: what is refused of it, how it connects, and how long it waits.

What is refused raises `SettingsRefused` before anything was connected to, and no message holds a user, a password or a query.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from pipeline.core.addresses import is_loopback, public
from pipeline.errors import SettingsRefused
from pipeline.sinks import sqlite_file

SETTING = "PIPELINE_STORE__URL"
# As other programs spell it, and by the one driver whose error codes and waits are known here.
_POSTGRES = {"postgres", "postgresql", "postgresql+psycopg"}
_SQLITE = {"sqlite", "sqlite+pysqlite"}
_ENCRYPTED = {"require", "verify-ca", "verify-full"}
# Ways to prove a password without sending it, or without one.
_UNSENT = {"scram-sha-256", "gss", "sspi", "none"}
# Parameters by their place: a tuple for each row is the least there can be.
_PARAMSTYLES = {"postgresql": "format", "sqlite": "qmark"}


def engine_for(url: str, silence_s: float) -> Engine:
    """The engine; nothing is connected yet. A server that says nothing for `silence_s` seconds is given up on."""
    parsed = _parsed(url)
    backend = parsed.get_backend_name()
    options: dict[str, Any] = {"hide_parameters": True, "paramstyle": _PARAMSTYLES[backend]}
    if backend == "sqlite":
        engine = create_engine(parsed, connect_args={"factory": sqlite_file.Connection}, **options)
        event.listen(engine, "connect", sqlite_file.tune)
        return engine
    engine = create_engine(parsed, pool_pre_ping=True, **options)
    event.listen(engine, "do_connect", _postgres_connect(silence_s))
    return engine


def where(engine: Engine) -> str:
    """The database as it may be printed: where it is, and its name."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return public(str(url))
    bare = URL.create(url.drivername, host=url.host, port=url.port, database=url.database)
    return public(bare.render_as_string())


def _postgres_connect(silence_s: float) -> Callable[..., Any]:
    from pipeline.sinks.postgres import CONNECT_S, Connection  # noqa: PLC0415  # an extra

    def connect(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        if "PGCONNECT_TIMEOUT" not in os.environ:
            options.setdefault("connect_timeout", CONNECT_S)
        connection = Connection.connect(*arguments, **options)
        connection.silence_s = silence_s
        return connection

    return connect


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername in _POSTGRES:
            parsed = parsed.set(drivername="postgresql+psycopg")
        dialect = parsed.get_dialect()
        if "@" in (parsed.host or ""):
            raise ValueError  # noqa: TRY301  # the rest of a password
    except (ArgumentError, NoSuchModuleError, ValueError):
        # ValueError: what stands where a port should.
        raise SettingsRefused(
            f"{SETTING} is no database URL. Write sqlite:///orders.db or postgresql+psycopg://user@host/database; a user "
            "or a password with other characters than letters and digits has them percent-encoded (@ is %40)."
        ) from None
    if parsed.drivername not in _POSTGRES | _SQLITE:
        raise SettingsRefused(
            f"{SETTING} names {parsed.drivername}; the store runs on sqlite, and on postgresql by psycopg."
        )
    try:
        dialect.import_dbapi()
    except ImportError as error:
        raise SettingsRefused(
            f"{SETTING} names PostgreSQL, which needs psycopg ({error}): pip install 'orders-pipeline[postgres]'."
        ) from None
    if parsed.get_backend_name() == "sqlite":
        _require_a_file(parsed)
    else:
        _require_encryption(parsed, os.environ)
    return parsed


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _require_a_file(url: URL) -> None:
    name = unquote(url.database or "").removeprefix("file:").partition("?")
    query = f"{name[2]}&{url.query}"
    if name[0] in {"", ":memory:"} or "memory" in query or "memdb" in query:
        raise SettingsRefused(
            f"{SETTING} names no file: what is stored in memory is lost with the worker, while its offsets stay "
            "committed. Write sqlite:///orders.db."
        )


def _require_encryption(url: URL, environment: Mapping[str, str]) -> None:
    """Refuse to send a password to another machine as the server likes: libpq's default takes no encryption for an answer."""

    def given(name: str, variable: str) -> str:
        value = url.query.get(name) or environment.get(variable) or ""
        return value if isinstance(value, str) else ",".join(value)

    hosts = url.host or given("host", "PGHOST")
    addresses = given("hostaddr", "PGHOSTADDR")
    remote = [
        host
        for host in (addresses or hosts).split(",")
        if host and not host.startswith(("/", "@")) and not is_loopback(_without_port(host))
    ]
    methods = set(filter(None, given("require_auth", "PGREQUIREAUTH").split(",")))
    password = url.password or given("password", "PGPASSWORD")
    if not remote or not password or given("sslmode", "PGSSLMODE") in _ENCRYPTED:
        return
    if methods and methods <= _UNSENT:
        return
    raise SettingsRefused(
        f"{SETTING} would send the password to {', '.join(remote)} as that server likes, perhaps unencrypted: add "
        "?sslmode=verify-full (with sslrootcert=FILE for a CA of your own) or ?sslmode=require. In a network that you "
        "trust ?require_auth=scram-sha-256 will do, which never sends it."
    )
