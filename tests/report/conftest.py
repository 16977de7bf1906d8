"""A headless browser, which opens pages and records what they ask for."""

import os
import shutil
from typing import NamedTuple

import pytest

FLAGS = ["--no-sandbox", "--disable-background-networking", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def executable():
    """Path of the installed chromium; browsers are never downloaded."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def playwright():
    """Playwright; it runs for one module only, since its event loop would disturb tests that have their own."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install 'medrecon[browser]'")
    if executable() is None:
        pytest.skip("no chromium; install Debian's package chromium, or set CHROMIUM to the path of one")
    with api.sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def chromium(playwright):
    browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture
def without_webgl(playwright):
    browser = playwright.chromium.launch(
        executable_path=executable(), args=["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]
    )
    yield browser
    browser.close()


class Opened(NamedTuple):
    """An open page, and what it asked for and complained about."""

    page: object
    address: str
    requests: list
    problems: list

    def check(self):
        """The page asked for nothing but itself, and nothing went wrong."""
        assert self.problems == []
        assert [one for one in self.requests if not one.startswith("data:")] == [self.address]


@pytest.fixture
def opened(tmp_path):
    """``opened(browser, content, **options)``: a page from bytes or a path, in a context with these options."""
    contexts = []

    def open_page(browser, content, **options):
        path = content
        if isinstance(content, bytes):
            path = tmp_path / f"page{len(contexts)}.html"
            path.write_bytes(content)
        # Reduced motion: smooth scrolling would move what is being photographed.
        defaults = {"viewport": {"width": 1100, "height": 900}, "reduced_motion": "reduce"}
        context = browser.new_context(**{**defaults, **options})
        contexts.append(context)
        page = context.new_page()
        found = Opened(page, path.as_uri(), [], [])
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("console", lambda message: found.problems.append(message.text))
        page.on("pageerror", lambda error: found.problems.append(str(error)))
        page.on("dialog", lambda dialog: (found.problems.append("dialog"), dialog.dismiss()))
        page.goto(found.address)
        return found

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def picture_folder(tmp_path):
    """Folder of screenshots: MEDRECON_SCREENSHOTS, to look at them, or a temporary one."""
    folder = os.environ.get("MEDRECON_SCREENSHOTS")
    if folder is None:
        return tmp_path
    os.makedirs(folder, exist_ok=True)
    return type(tmp_path)(folder)
