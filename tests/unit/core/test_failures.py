"""Exceptions told apart, whatever they are; and a `Retry` that says what it means."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from math import inf, nan
from typing import Any

import pytest

from pipeline.core.failures import ERROR_CHARACTERS_MAX, FailureKind, Verdict, classify, one_line, retry_after, verdict
from pipeline.errors import HandlerFailed, Reject, Retry, SinkUnavailable


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", errors)


def nested(error: BaseException, deep: int) -> BaseException:
    for _ in range(deep):
        error = group(error)
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (group(Reject("a"), Reject("b")), FailureKind.REJECTED),
        (group(Reject("a"), KeyError("k")), FailureKind.TRANSIENT),
        (group(Reject("a"), TypeError("k"), KeyError("k")), FailureKind.BUG),
        (group(TypeError("a"), Reject("b"), SinkUnavailable("c")), FailureKind.UNAVAILABLE),
        (nested(SinkUnavailable("c"), 500), FailureKind.UNAVAILABLE),
        (group(*(KeyError(n) for n in range(5_000))), FailureKind.TRANSIENT),
        (group(Reject("a"), Retry("b")), FailureKind.TRANSIENT),
    ],
)
def test_members_of_a_group_decide(error: BaseException, kind: FailureKind) -> None:
    assert classify(error).kind is kind


def test_group_is_named_by_the_member_that_decided() -> None:
    failure = classify(group(Reject("no"), group(KeyError("nope")), ValueError("x")))
    assert failure.error_class == "KeyError"
    assert failure.message == "'nope' (and 2 more: ValueError, pipeline.errors.Reject)"


def test_cause_counts_where_the_type_leaves_the_question_open() -> None:
    def raised(error: Exception, cause: Exception, *, explicit: bool = True) -> BaseException:
        try:
            try:
                raise cause  # noqa: TRY301
            except Exception as caught:
                if explicit:
                    raise error from caught
                raise error  # noqa: B904
        except Exception as found:  # noqa: BLE001
            return found

    down = SinkUnavailable("down.")
    assert classify(raised(RuntimeError("x"), down)).kind is FailureKind.UNAVAILABLE
    assert classify(raised(RuntimeError("x"), down, explicit=False)).kind is FailureKind.TRANSIENT
    assert classify(raised(Reject("x"), down)).kind is FailureKind.REJECTED
    assert classify(raised(Retry("x"), down)).kind is FailureKind.TRANSIENT
    assert classify(raised(TypeError("x"), down)).kind is FailureKind.BUG
    assert classify(raised(RuntimeError("x"), Reject("y"))).kind is FailureKind.TRANSIENT
    circle = RuntimeError("x")
    circle.__cause__ = ValueError("y")
    circle.__cause__.__cause__ = circle
    assert classify(circle).kind is FailureKind.TRANSIENT


class Meta(type):
    @property
    def __module__(cls) -> Any:
        raise KeyError("no module")


class Odd(Exception, metaclass=Meta):
    __cause__ = property(lambda self: 1 / 0)  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        raise OSError("no attribute")


class Text(str):
    __slots__ = ()

    def __getitem__(self, _: Any) -> Any:
        raise ValueError("no piece")

    __str__ = __repr__ = __len__ = __bool__ = __getitem__  # type: ignore[assignment]


class OddText(Exception):
    def __str__(self) -> str:
        return Text("text")


class NoText(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Leaves(Exception):
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize("kinds", [[Odd], [OddText], [NoText], [Endless], [Leaves], [Odd, Leaves]])
def test_exception_that_hides_is_of_no_known_kind_and_has_a_name(kinds: list[type[BaseException]]) -> None:
    error = kinds[0]() if len(kinds) == 1 else group(*(kind() for kind in kinds))
    failure = classify(error)
    assert failure.kind is FailureKind.TRANSIENT
    assert failure.error_class.rpartition(".")[2] in {"Odd", "OddText", "NoText", "Endless", "Leaves"}
    assert failure.message
    assert one_line(error)
    assert retry_after(error) is None


def test_name_of_a_class_can_be_written_whatever_it_is() -> None:
    odd = type("a\n" + "x" * 10_000, (Exception,), {"__module__": "m\ud800"})
    name = classify(odd()).error_class
    assert name.startswith(r"m\ud800.a\nxxx")
    assert len(name) < 300
    name.encode()


def test_words_are_cut_and_one_line_of_them_is_visible() -> None:
    assert len(classify(Exception("x" * 10_000_000)).message) == ERROR_CHARACTERS_MAX
    line = one_line(ValueError("a\nb\x1b[31m\0\ud800\u202e"))
    assert line == r"ValueError: a\nb\x1b[31m\x00\ud800\u202e"


def test_own_word_of_a_handler_that_all_has_to_stop_is_no_matter_of_choice() -> None:
    for error in (HandlerFailed("stop"), group(Reject("x"), HandlerFailed("stop"))):
        assert verdict(error, classify(error), Verdict.GIVE_UP) is Verdict.STOP
    assert verdict(TypeError(), classify(TypeError()), Verdict.GIVE_UP) is Verdict.GIVE_UP


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (None, None),
        (3, 3.0),
        (0.5, 0.5),
        (timedelta(minutes=1), 60.0),
        (Decimal("1.5"), 1.5),
        (Fraction(1, 2), 0.5),
        (-3, 0.0),
        (timedelta(seconds=-1), 0.0),
        (inf, inf),
        (-inf, 0.0),
        (10**400, inf),
        (-(10**400), 0.0),
    ],
)
def test_delay_is_taken_as_seconds(after: Any, seconds: float | None) -> None:
    assert Retry("later", after=after).after == seconds
    assert retry_after(Retry("later", after=after)) == seconds


@pytest.mark.parametrize("after", ["30", "5s", b"3", nan, Decimal("nan"), Decimal("snan"), True, [], {}, object()])
def test_delay_that_is_none_is_refused_where_it_is_written(after: Any) -> None:
    with pytest.raises(TypeError, match="after="):
        Retry("later", after=after)


@pytest.mark.parametrize("why", [30, 1.5, timedelta(seconds=3), None])
def test_delay_in_place_of_the_reason_is_refused(why: Any) -> None:
    with pytest.raises(TypeError, match="write after="):
        Retry(why)


def test_longest_delay_that_a_group_asks_for_counts() -> None:
    assert retry_after(group(Retry("a", after=1), KeyError("k"), group(Retry("b", after=7), Retry("c")))) == 7.0
    wrong = Retry("later")
    wrong.after = "soon"  # type: ignore[assignment]
    assert retry_after(wrong) is None

    class Own(Retry):
        def __init__(self) -> None:
            pass

    assert retry_after(Own()) is None
