import pytest

from pipeline.core.java_properties import pairs


def read(text: str) -> dict[str, str | None]:
    found = {}
    for line in pairs(text):
        assert not isinstance(line, str), line
        found[line.key] = line.value
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The examples of java.util.Properties' documentation.
        ("Truth = Beauty", {"Truth": "Beauty"}),
        (" Truth:Beauty", {"Truth": "Beauty"}),
        ("Truth                    :Beauty", {"Truth": "Beauty"}),
        ("fruits    apple, banana, pear, \\\n         cantaloupe, watermelon, \\\n         kiwi, mango",
         {"fruits": "apple, banana, pear, cantaloupe, watermelon, kiwi, mango"}),
        ("cheeses", {"cheeses": None}),
        ("cheeses\n", {"cheeses": None}),
        # Separators, comments, blanks.
        ("a==b", {"a": "=b"}),
        ("a = = b", {"a": "= b"}),
        ("a\tb c", {"a": "b c"}),
        ("a\fb", {"a": "b"}),
        ("a=", {"a": ""}),
        ("a= b ", {"a": "b "}),
        ("=b", {"": "b"}),
        ("\\:\\=\\ \\#=x", {":= #": "x"}),
        ("a=1 # no comment", {"a": "1 # no comment"}),
        ("  ! comment \\\na=1", {"a": "1"}),
        ("a=\\\n# no comment here", {"a": "# no comment here"}),
        # Ends of lines.
        ("a=1\rb=2\r\nc=3", {"a": "1", "b": "2", "c": "3"}),
        ("a=1\\\r\n   2", {"a": "12"}),
        ("a=1\\\n\nb=2", {"a": "1", "b": "2"}),
        ("a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        ("a=1\\\\\\\n2", {"a": "1\\2"}),
        ("a=1\\", {"a": "1"}),
        ("a=1\u2028b=2\x85c=3\vd", {"a": "1\u2028b=2\x85c=3\vd"}),
        # Escapes.
        ('a=\\t\\n\\r\\f\\\\\\b\\z\\"', {"a": '\t\n\r\f\\bz"'}),
        ("a=\\u00e9\\u20AC\\ud83d\\ude00", {"a": "é€😀"}),
        ("\\u0061=1", {"a": "1"}),
        ("a=\\u0020b", {"a": " b"}),
        ("a=1\na=2", {"a": "2"}),
    ],
)  # fmt: skip
def test_line_is_read_as_java_reads_it(text: str, expected: dict[str, str | None]) -> None:
    assert read(text) == expected


def test_escape_that_java_refuses_is_told_with_its_line() -> None:
    for text in ("a=1\nb=\\u12", "a=1\nb=\\u12x4", "a=1\n\\u=2"):
        *_, problem = pairs(text)
        assert problem == "line 2 has a \\u that is not followed by four hexadecimal digits"


def test_line_is_numbered_by_where_it_begins() -> None:
    assert [line.number for line in pairs("# c\na=1\\\n2\n\nb=2") if not isinstance(line, str)] == [2, 5]
