import pytest

from pipeline.core.addresses import is_loopback, public


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://registry:8081/apis/ccompat/v7", "http://registry:8081/apis/ccompat/v7"),
        ("http://h/?k=S3CRET", "http://h/"),
        ("http://h#S3CRET", "http://h"),
        ("postgresql+psycopg://h/db?user=u&password=S3CRET", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg://u:S3CRET@h:5432/db", "postgresql+psycopg://h:5432/db"),
        ("postgresql+psycopg://u:S3CRET://S3CRET@h/db", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg://u:S3CRET@S3CRET@h/db", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg://u:S3CRET/S3CRET@h/db", "postgresql+psycopg://h/db"),
        ("postgresql+psycopg://u:S3CRET?S3CRET@h/db", "postgresql+psycopg://••••"),
        ("postgresql+psycopg://u:S3CRET#S3CRET@h/db", "postgresql+psycopg://••••"),
        ("postgresql+psycopg://h/db?password=S3CRET@S3CRET", "postgresql+psycopg://••••"),
        ("u:S3CRET@h:9092", "••••"),
        ("h:9092,g:9092", "h:9092,g:9092"),
        ("sqlite:////home/me@work/orders.db", "sqlite:////home/me@work/orders.db"),
        ("sqlite:///file:orders.db?mode=ro&key=S3CRET", "sqlite:///file:orders.db"),
    ],
)
def test_address_is_printed_without_what_may_be_secret(url: str, shown: str) -> None:
    assert public(url) == shown


def test_loopback_is_known_by_name_and_number() -> None:
    assert all(map(is_loopback, ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["", "host", "localhost.example", "10.0.0.1", "0.0.0.0", "::"]))
