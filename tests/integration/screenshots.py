"""`python -m tests.integration.screenshots`: pictures of the dashboard for the docs, from a stack of its own."""

import gzip
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from pipeline.local.stack import ephemeral_stack
from tests.conftest import install
from tests.integration.browser import chromium
from tests.integration.conftest import ORDERS_FILE, ROOT, Pipe
from tests.integration.web import running

IMAGES = ROOT / "docs/images"
VIEWS = {"live": "#live", "letters": "#letters", "contracts": "#contracts"}
DESKTOP, PHONE = {"width": 1240, "height": 900}, {"width": 390, "height": 844}


def take() -> None:
    IMAGES.mkdir(exist_ok=True)
    with ephemeral_stack(install()) as stack, tempfile.TemporaryDirectory() as home:
        pipe = Pipe(stack.bootstrap_servers, stack.registry_url, Path(home), topic="orders.v1")
        pipe.env |= {"PIPELINE_KAFKA__CONSUMER_GROUP": "orders-workers", "PIPELINE_SCHEMAS__DIR": str(ROOT / "schemas")}
        assert pipe.run("topics", "apply").code == 0
        assert pipe.run("schemas", "register").code == 0
        try:
            with gzip.open(ORDERS_FILE, "rt") as file:
                refunds = [line for line in file if '"amount": "-' in line or '"amount":"-' in line][:180]
            pipe.run("produce", "--input", "-", stdin="".join(refunds).encode())
            pipe.run("consume", "--until-end")
            with running(pipe) as web, chromium() as browser:
                pipe.start("produce", "--generate", "20000", "--rate", "40")
                look = browser.new_page(viewport=DESKTOP)
                look.goto(web.url)
                look.wait_for_timeout(75_000)
                look.close()
                for scheme in ("light", "dark"):
                    for view, anchor in VIEWS.items():
                        page = browser.new_page(viewport=DESKTOP, color_scheme=scheme)
                        shoot(page, web.url, anchor, f"dashboard-{view}-{scheme}.png")
                for view, anchor in VIEWS.items():
                    page = browser.new_page(viewport=PHONE, device_scale_factor=1.5)
                    shoot(page, web.url, anchor, f"dashboard-{view}-phone.png")
                page = browser.new_page(viewport=DESKTOP)
                page.goto(f"{web.url}/#letters")
                page.locator("#letters a").first.click()
                page.get_by_role("heading", name="History").wait_for()
                # Where the checkout lies is this machine's business.
                shorten = "root => document.querySelectorAll('dialog pre').forEach(it => { it.textContent = "
                page.evaluate(shorten + "it.textContent.replaceAll(root, ''); })", f"{ROOT}/")
                page.screenshot(path=IMAGES / "dashboard-letter-light.png")
        finally:
            pipe.stop_all()


def shoot(page: Page, url: str, anchor: str, name: str) -> None:
    page.goto(f"{url}/{anchor}")
    page.wait_for_timeout(4000)
    page.screenshot(path=IMAGES / name)
    page.close()


if __name__ == "__main__":
    take()
