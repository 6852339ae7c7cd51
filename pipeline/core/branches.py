"""Values that say which branch of a union they are: where two branches read alike, the value alone does not tell.

`[Created, Deleted]` with the same fields gives `Branch`es; they are dicts, and equal to plain ones. What is written again
is written as the branch that was read. See docs/reference/avro-types.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self


class Branch(dict[str, Any]):
    """A record of a union of several records, or a map beside one: a dict whose `branch` is the record's full name, or "map".

    Equal to a plain dict of the same content, and to no `Branch` of another name. `copy`, `|`, pickle and deepcopy keep it.
    """

    __slots__ = ("branch",)
    branch: str

    def __init__(self, branch: str, content: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__(content)
        self.branch = branch

    def __eq__(self, other: object) -> bool:
        return not (isinstance(other, Branch) and other.branch != self.branch) and dict.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> "Branch":  # type: ignore[override]
        return Branch(self.branch, dict.__or__(self, other))

    def __repr__(self) -> str:
        return f"Branch({self.branch!r}, {dict.__repr__(self)})"

    def copy(self) -> "Branch":
        """As of any dict, of the same branch."""
        return Branch(self.branch, self)


class Symbol(str):
    """A symbol of an enum beside a string or another enum in one union: a str whose `branch` is the enum's full name."""

    __slots__ = ("branch",)
    branch: str

    def __new__(cls, branch: str, symbol: str) -> Self:
        it = super().__new__(cls, symbol)
        it.branch = branch
        return it

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # pickle calls `__new__` with these
        return self.branch, str(self)


class Fixed(bytes):
    """Bytes of a fixed beside other bytes in one union: bytes whose `branch` is the fixed's full name."""

    branch: str

    def __new__(cls, branch: str, content: bytes) -> Self:
        it = super().__new__(cls, content)
        it.branch = branch
        return it

    def __getnewargs__(self) -> tuple[str, bytes]:  # type: ignore[override]
        return self.branch, bytes(self)


def branch_of(value: object) -> str | None:
    """The full name of the branch that a decoded value is; None where its union leaves no doubt.

    It serves as pydantic's `Discriminator(branch_of)` for a model of such a union.
    """
    return value.branch if isinstance(value, (Branch, Symbol, Fixed)) else None
