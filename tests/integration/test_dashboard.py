"""The dashboard in a real browser, on a real broker. Skipped where there is no chromium; `.ci/run` installs it."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, expect

from pipeline.local.artifacts import Installed
from pipeline.local.stack import LocalStack, ephemeral_stack
from tests.integration.browser import PATH, WHY_NOT, chromium
from tests.integration.conftest import Pipe, order, wait_until
from tests.integration.web import running

# A condition with a deadline that a busy machine keeps, too.
expect.set_options(timeout=30_000)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(PATH is None, reason=WHY_NOT),
]
TOPICS = """
[[topic]]
name = "{topic}"
partitions = 3

[[topic]]
name = "not-there.v1"
partitions = 3
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as it:
        yield it


@pytest.fixture(scope="module")
def fragile(installed: Installed) -> Iterator[LocalStack]:
    """A broker of this file's own: one test stops it, and its groups are these tests' alone."""
    with ephemeral_stack(installed) as it:
        yield it


@pytest.fixture
def pipe(fragile: LocalStack, tmp_path: Path) -> Iterator[Pipe]:
    it = Pipe(fragile.bootstrap_servers, fragile.registry_url, tmp_path)
    it.create_topics()
    it.register_schemas()
    (it.schemas / "topics.toml").write_text(TOPICS.format(topic=it.topic))
    yield it
    it.stop_all()


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """A page that complains of nothing, least of all of its own policy for scripts and styles."""
    pages: list[Page] = []
    complaints: list[str] = []

    def opened(url: str, **options: Any) -> Page:
        page = browser.new_page(**options)
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(url)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert [it for it in complaints if "Failed to load resource" not in it] == []


def number(page: Page, selector: str) -> float:
    text = page.locator(selector).inner_text().replace(",", "")
    return float(text) if text.replace(".", "").isdigit() else 0.0


def serious(page: Page) -> list[str]:
    """What axe finds, from serious on."""
    found = Axe().run(page).response["violations"]
    return [f"{it['id']}: {it['nodes'][0]['html']}" for it in found if it["impact"] in {"serious", "critical"}]


def test_live_figures_move_while_orders_flow(pipe: Pipe, open_page: Open) -> None:
    with running(pipe) as web:
        page = open_page(web.url)
        expect(page.locator("#empty")).to_be_visible()
        assert page.locator("#pulse").get_attribute("data-state") == "live"
        # More than can pass while this looks: figures of a flow that has ended are gone with the next look.
        feeding = pipe.start("produce", "--generate", "100000", "--rate", "200")
        expect(page.locator("#empty")).to_be_hidden()
        wait_until(lambda: number(page, "#rate-in") > 50, "orders in")
        wait_until(lambda: number(page, "#rate-out") > 50, "orders out")
        wait_until(lambda: page.locator("#latency").inner_text() != "–", "a latency")
        first = page.locator("#orders tbody tr").first
        before = first.inner_text()
        wait_until(lambda: first.inner_text() != before, "orders pass")
        page.get_by_text(f"Members and assignment of {pipe.group}").click()
        expect(page.get_by_text(f"{pipe.topic} [0 1 2]")).to_be_visible()
        feeding.end()


def test_letter_is_found_read_and_redriven_from_the_page(pipe: Pipe, open_page: Open) -> None:
    pipe.produce([order(1), order(2, amount="0"), order(3, amount="-1.25")])
    assert pipe.run("consume", "--until-end").code == 0
    with running(pipe, "--no-worker") as web:
        page = open_page(f"{web.url}/#letters")
        rows = page.locator("#letters tbody tr")
        expect(rows).to_have_count(2)
        page.get_by_label("Key").fill("A-3")
        page.get_by_role("button", name="Filter").press("Enter")
        expect(rows).to_have_count(1)
        assert "key=A-3" in page.url, "the filter is in the address"
        link = rows.get_by_role("link")
        link.press("Enter")
        letter = page.get_by_role("dialog")
        assert page.url.endswith(str(link.get_attribute("href"))), "and so is the letter"
        expect(letter).to_contain_text('"amount": "-1.25"')
        expect(letter).to_contain_text("is not above zero")
        expect(letter).to_contain_text("00 00 00 00")
        for step in ("Written to", "Failed", "Dead letter"):
            expect(letter.locator(".timeline")).to_contain_text(step)
        assert serious(page) == []
        page.go_back()
        expect(letter).to_be_hidden()
        expect(rows).to_have_count(1)
        page.go_forward()
        expect(letter).to_contain_text("is not above zero")
        page.reload()
        expect(letter).to_contain_text("is not above zero")
        page.keyboard.press("Escape")
        expect(letter).to_be_hidden()
        assert page.url.endswith("#letters")
        page.get_by_role("button", name="Clear").click()
        expect(rows).to_have_count(2)
        page.get_by_role("button", name="Redrive all that match (2)").click()
        expect(page.get_by_role("dialog")).to_contain_text("nothing was sent")
        expect(page.get_by_role("dialog")).to_contain_text("2 can be decoded with the current schema")
        expect(page.get_by_role("dialog")).to_contain_text("The handler was not run")
        expect(page.get_by_role("dialog")).not_to_contain_text("null")
        assert pipe.run("deadletters", "stats", "--json").json["due"] == 2, "shown, not done"
        assert serious(page) == []
        page.get_by_role("button", name="Redrive 2 letters").click()
        expect(page.get_by_role("dialog")).to_contain_text("2 redriven")
        page.get_by_role("button", name="Close").click()
        expect(page.locator("#letters")).to_contain_text("No letter fits")
        assert pipe.run("deadletters", "stats", "--json").json["redriven"] == 2
        page.get_by_label("State").select_option("redriven")
        page.get_by_role("button", name="Filter").click()
        expect(rows).to_have_count(2)
        page.go_back()
        expect(page.locator("#letters")).to_contain_text("No letter fits")


def test_letters_of_a_page_are_selected_at_once_within_reach_of_whoever_scrolls(pipe: Pipe, open_page: Open) -> None:
    pipe.produce([order(n, amount="0") for n in range(60)])
    assert pipe.run("consume", "--until-end").code == 0
    with running(pipe, "--no-worker") as web:
        page = open_page(f"{web.url}/?reason=rejected#letters", viewport={"width": 390, "height": 844})
        expect(page.locator("#letters tbody tr")).to_have_count(50)
        assert page.locator("[name=reason]").input_value() == "rejected"
        page.get_by_role("link", name=re.compile(r"^Letter \d")).first.click()
        expect(page.get_by_role("dialog")).to_contain_text("is not above zero")
        page.get_by_role("button", name="Close").click()
        page.get_by_label("Select this page").check()
        expect(page.get_by_role("button", name="Redrive selected (50)")).to_be_in_viewport()
        page.locator("#letters tbody tr").nth(30).scroll_into_view_if_needed()
        expect(page.get_by_role("button", name="Redrive selected (50)")).to_be_in_viewport()
        expect(page.get_by_role("link", name="Live")).to_be_in_viewport()
        page.get_by_label("Select letter").first.uncheck()
        expect(page.get_by_role("button", name="Redrive selected (49)")).to_be_visible()
        page.get_by_role("button", name="Older").click()
        expect(page.locator("#where")).to_contain_text("51–60 of 60")
        assert "offset=50" in page.url
        page.go_back()
        expect(page.locator("#where")).to_contain_text("1–50 of 60")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def cut_off(page: Page) -> list[str]:
    """Texts of the page that lie outside of what is seen at the right, or are wider than their place without saying so."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((it) => it.checkVisibility() && it.childElementCount === 0
             && !it.closest("details, .cards thead")
             && it.textContent.trim() && getComputedStyle(it).clipPath === "none"
             && (it.getBoundingClientRect().right > innerWidth || (it.scrollWidth > it.clientWidth + 1
                 && getComputedStyle(it).display !== "inline" && getComputedStyle(it).textOverflow !== "ellipsis"
                 && getComputedStyle(it).overflowX !== "auto")))
             .map((it) => it.outerHTML)"""
    )
    return found


def test_phone_shows_whole_amounts_and_a_chart_says_its_values(pipe: Pipe, open_page: Open) -> None:
    with running(pipe) as web:
        page = open_page(web.url, viewport={"width": 390, "height": 844})
        feeding = pipe.start("produce", "--generate", "100000", "--rate", "50")
        expect(page.locator("#orders tbody tr").first).to_be_visible()
        wait_until(lambda: number(page, "#rate-in") > 10, "orders in")
        assert cut_off(page) == []
        amount = page.locator("#orders tbody tr").first.locator("td").last
        box = amount.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390, "the last digit is there"
        height = page.locator("#orders").evaluate("it => (it.clientHeight - 28 ) % 28")
        assert height <= 2, "and the last row is whole"
        chart = page.get_by_role("img", name="Orders per second")
        chart.hover()
        expect(page.locator("#read-rates")).to_contain_text(re.compile(r"^\d\d:\d\d:\d\d$"))
        chart.focus()
        page.keyboard.press("End")
        expect(page.locator("#read-in")).to_contain_text(re.compile(r"^\d+\.\d$"))
        feeding.end()


def test_redrive_of_other_letters_than_were_shown_is_refused(pipe: Pipe) -> None:
    pipe.produce([order(1, amount="0"), order(2, amount="0")])
    assert pipe.run("consume", "--until-end").code == 0
    with running(pipe, "--no-worker") as web:
        asked = {"selection": {"reason": "rejected"}, "dry_run": False, "expect": 1}
        answer = web.http.post("/dashboard/redrive", json=asked)
        assert (answer.status_code, "Nothing was redriven" in answer.json()["detail"]) == (409, True)
        for bad, status in (({}, 400), ({"selection": {}, "dry_run": True}, 422), ([], 400)):
            assert web.http.post("/dashboard/redrive", json=bad).status_code == status
        foreign = web.http.post("/dashboard/redrive", content=json.dumps(asked), headers={"content-type": "text/plain"})
        assert foreign.status_code == 415
    assert pipe.run("deadletters", "stats", "--json").json["due"] == 2


def test_list_that_is_read_after_a_redrive_has_it(pipe: Pipe) -> None:
    pipe.produce([order(1, amount="0"), order(2, amount="0"), order(3, amount="0")])
    assert pipe.run("consume", "--until-end").code == 0
    with running(pipe, "--no-worker") as web:

        def due() -> list[str]:
            # Nobody watches, so only a redrive makes the app read the letters.
            answer = web.http.get("/dashboard/letters")
            return [row["id"] for row in answer.json()["rows"]] if answer.status_code == 200 else []

        asked = {"selection": {"key": "A-1"}, "dry_run": False, "expect": 1}
        assert web.http.post("/dashboard/redrive", json=asked).json()["redriven"] == 1
        left = due()
        assert len(left) == 2
        for letter in left:
            asked = {"selection": {"ids": [letter]}, "dry_run": False, "expect": 1}
            assert web.http.post("/dashboard/redrive", json=asked).json()["redriven"] == 1
            assert letter not in due()


def test_broker_that_stops_is_said_in_a_banner_that_goes_when_it_is_back(
    pipe: Pipe, fragile: LocalStack, open_page: Open
) -> None:
    broker = fragile.kafka.pid
    assert broker is not None
    with running(pipe) as web:
        page = open_page(web.url)
        banner = page.get_by_role("alert")
        wait_until(lambda: page.locator("#pulse").get_attribute("data-state") == "live", "the page is live")
        expect(banner).to_be_hidden()
        os.kill(broker, signal.SIGSTOP)
        try:
            expect(banner).to_contain_text("has not answered since", timeout=60_000)
            expect(banner).to_contain_text("Showing data from")
            assert "PIPELINE_" not in banner.inner_text()
            assert "No dead letter" not in page.locator("main").inner_text(), "nothing is called well that is not known"
            assert web.status("/healthz/live") == 200
        finally:
            os.kill(broker, signal.SIGCONT)
        expect(banner).to_be_hidden(timeout=60_000)
        pipe.produce([order(1)])
        expect(page.locator("#orders")).to_contain_text("A-1", timeout=60_000)


def test_page_behind_a_key_lives_on_the_browsers_password_and_says_when_the_app_has_ended(
    pipe: Pipe, open_page: Open
) -> None:
    pipe.env["PIPELINE_API__KEYS"] = "a-key-of-the-page"
    with running(pipe, "--no-worker") as web:
        page = open_page(web.url, http_credentials={"username": "anybody", "password": "a-key-of-the-page"})
        wait_until(lambda: page.locator("#pulse").get_attribute("data-state") == "live", "the page is live")
        assert web.process.end().code == 0, "an open page does not hold it up"
        expect(page.get_by_role("alert")).to_contain_text("The app has said nothing since", timeout=30_000)


WIDE, NARROW = (1240, 900), (390, 844)


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        ("light", WIDE), ("dark", NARROW),
        pytest.param("light", NARROW, marks=pytest.mark.long), pytest.param("dark", WIDE, marks=pytest.mark.long),
    ],
    ids=["light-wide", "dark-narrow", "light-narrow", "dark-wide"],
)  # fmt: skip
def test_axe_finds_no_serious_violation_in_any_view(
    pipe: Pipe, open_page: Open, scheme: str, size: tuple[int, int]
) -> None:
    pipe.produce([order(n, amount=f"{n % 2}") for n in range(20)])
    with running(pipe) as web:
        wait_until(lambda: pipe.lag() == 0, "worked off")
        page = open_page(web.url, color_scheme=scheme, viewport={"width": size[0], "height": size[1]})
        expect(page.locator("#orders tbody tr")).to_have_count(20)
        assert serious(page) == []
        page.get_by_role("link", name="Dead letters").first.click()
        expect(page.locator("#letters tbody tr")).to_have_count(10)
        assert serious(page) == []
        page.get_by_role("link", name="Topics and schemas").click()
        expect(page.locator("#contracts")).to_contain_text("not-there.v1")
        assert serious(page) == []
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0], "nothing sticks out at the side"
        assert cut_off(page) == []
        page.evaluate("document.querySelector('main').append(new Image())")
        assert serious(page), "and axe does find what is wrong"


def test_documentation_page_is_drawn_under_the_same_policy(pipe: Pipe, open_page: Open) -> None:
    with running(pipe, "--no-worker") as web:
        page = open_page(f"{web.url}/docs")
        expect(page.get_by_text("Send one order").first).to_be_visible()
        page.get_by_role("link", name="Orders pipeline").click()
        expect(page.locator("#view-live")).to_be_visible()


def fill_with_letters(pipe: Pipe, count: int) -> None:
    """So many letters: a hundred that a worker wrote, copied as they are."""
    pipe.produce([order(n, amount="0") for n in range(100)])
    assert pipe.run("consume", "--until-end").code == 0
    letters = pipe.records(pipe.dead_letter_topic)
    producer = Producer(pipe.properties)
    for number in range(count - len(letters)):
        it = letters[number % len(letters)]
        producer.produce(pipe.dead_letter_topic, it.value, it.key, it.partition, headers=list(it.headers))
        if number % 10_000 == 0:
            producer.flush(30)
    assert producer.flush(30) == 0
    producer.close()


@pytest.mark.long
def test_hundred_thousand_letters_are_listed_paged_and_filtered(pipe: Pipe, open_page: Open) -> None:
    with running(pipe, "--no-worker") as web:
        fill_with_letters(pipe, 100_000)
        page = open_page(f"{web.url}/#letters")
        expect(page.locator("#where")).to_contain_text("of 100,000", timeout=120_000)
        assert page.locator("#letters tbody tr").count() == 50
        page.get_by_role("button", name="Older").click()
        expect(page.locator("#where")).to_contain_text("51–100 of 100,000")
        page.get_by_label("Key").fill("A-7")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("#where")).to_contain_text("of 1,000")
        page.locator("#letters tbody tr").first.get_by_role("link").click()
        expect(page.get_by_role("dialog")).to_contain_text("A-7")
        assert web.status("/healthz/live") == 200
