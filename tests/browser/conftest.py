"""ComfyUI's web interface in headless Chromium, on a server with the bundled model."""

import pytest
from helpers import browser_user
from helpers.checkout import HOST

from scripts import host
from scripts.browser import find_browser
from scripts.comfyui import Server
from tools.page import open_page


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if find_browser() is None:
        pytest.skip("no Chromium or Chrome found")
    base = tmp_path_factory.mktemp("comfyui")
    previews = ("--preview-method", "latent2rgb")
    with Server(host.ensure(HOST["version"]), base, previews, cpu=True) as running:
        yield running


@pytest.fixture(scope="module")
def page(server):
    with open_page(server.url) as page:
        yield page


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.failed and "page" in item.funcargs:
        browser_user.keep_screenshot(item.funcargs["page"], f"FAILED {item.name}")
    return report
