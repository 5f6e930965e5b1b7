"""A shelf that is filled once a session, and the page over it in different configurations."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from registry.web.app import create
from registry.web.configuration import Configuration, Role, Token, digest
from tests.web.shelf import fill

HERE = ("127.0.0.1", 50000)
TOKENS = {role: f"dlpk_{role}-token" for role in ("browse", "trigger", "promote")}
WITH_TOKENS = Configuration(
    tokens=tuple(Token(name=f"{role}r", role=Role(role), sha256=digest(token)) for role, token in TOKENS.items())
)
Browser = Callable[..., TestClient]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        _settle(patch, home)
        fill()
    return home


def _settle(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in ("DLPK_STORE", "DLPK_RESULTS", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DLPK_BROWSE"):
        patch.delenv(name, raising=False)
    patch.setitem(os.environ, "DLPK_HOME", str(home))


@pytest.fixture
def shelf(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a filled shelf, set for this test; its own, as some tests promote."""
    home = shutil.copytree(filled, tmp_path / "shelf")
    _settle(monkeypatch, home)
    return home


@pytest.fixture
def browser(shelf: Path) -> Iterator[Browser]:
    """A browser on a page of this configuration; from this machine."""
    opened: list[TestClient] = []

    def open_page(configuration: Configuration | None = None, address: tuple[str, int] = HERE) -> TestClient:
        app = create(configuration or Configuration())
        client = TestClient(app, base_url="http://127.0.0.1", client=address, raise_server_exceptions=False)
        opened.append(client)
        return client

    assert shelf.is_dir()
    yield open_page
    for client in opened:
        client.close()


@pytest.fixture
def page(browser: Browser) -> TestClient:
    """The page as it is without any configuration."""
    return browser()
