"""A folder of runs, a server of them, and a browser."""

from pathlib import Path

import pytest
from browsing import DESKTOP, RUNS, blocks, serving, settled, until, untrained

from pages.server import Server


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder of runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, fields in RUNS.items():
        untrained(folder / name, **fields)
    (folder / "hole" / "examples").mkdir()
    blocks(48, 40).save(folder / "hole" / "examples" / "1.png")
    return folder


@pytest.fixture(scope="session")
def server(runs):
    with serving(Server([str(runs)], device="cpu")) as server:
        yield server


@pytest.fixture
def opened(browser):
    """Opens a server's page at a run. Afterwards, asserts that no page had an error or console
    message, or asked for anything elsewhere; except for the refusals that a test expects."""
    contexts, wrong, expected = [], [], []

    def start(server, run: str | None = None, options=DESKTOP, loaded=True, **more):
        contexts.append(browser.new_context(**options, **more))
        page = contexts[-1].new_page()
        address = f"http://127.0.0.1:{server.server_port}/"
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: r.url.startswith((address, "data:", "blob:")) or wrong.append(r.url),
        )
        page.goto(address)
        until(page, "run !== null")
        if run:
            page.select_option("#runs", run)
        if loaded and not page.locator("#empty").is_visible():
            settled(page)
        return page

    start.expected = expected
    yield start
    for context in contexts:
        context.close()
    assert [text for text in wrong if not any(part in text for part in expected)] == []
