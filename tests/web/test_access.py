import re
import socket
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner
from fastapi.testclient import TestClient

from registry.errors import OptionsError, StoreError
from registry.history import history
from registry.web import cli, configuration
from registry.web.cli import check_address, free_port, token
from registry.web.configuration import Configuration, Limits, Proxy, Role
from tests.web.conftest import TOKENS, WITH_TOKENS, Browser

CHANGES = {  # address -> the role that may
    "/models/roofs/promote": "promote",
    "/models/roofs/rollback": "promote",
    "/api/models/roofs/promote": "promote",
    "/api/models/roofs/rollback": "promote",
    "/deployments/00000000-0000-0000-0000-000000000001": "trigger",
    "/api/deployments/00000000-0000-0000-0000-000000000001/runs": "trigger",
    "/runs/00000000-0000-0000-0000-000000000001/cancel": "trigger",
    "/api/runs/00000000-0000-0000-0000-000000000001/cancel": "trigger",
}
READS = ("/", "/models/roofs", "/models/roofs/4", "/models/roofs/4/package", "/results", "/api/models", "/compare")


def bearer(role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[role]}"}


def csrf(client: TestClient, address: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(address).text)
    return found[1] if found else ""


@pytest.mark.slow
def test_without_configuration_this_machine_may_do_all_and_no_other_anything(browser: Browser) -> None:
    assert 200 == browser().get("/").status_code
    assert 303 == browser(address=("10.1.2.3", 4000)).get("/", follow_redirects=False).status_code
    assert 401 == browser(address=("10.1.2.3", 4000)).get("/api/models").status_code


def test_another_name_of_this_machine_is_refused(browser: Browser) -> None:
    assert 421 == browser().get("/", headers={"host": "evil.example.org"}).status_code
    assert 200 == browser().get("/", headers={"host": "localhost:8321"}).status_code


@pytest.mark.slow
@pytest.mark.parametrize("address", READS)
def test_who_has_not_signed_in_sees_nothing(browser: Browser, address: str) -> None:
    client = browser(WITH_TOKENS)
    answer = client.get(address, follow_redirects=False)
    assert answer.status_code == (401 if address.startswith("/api") else 303)
    assert 401 == client.get(address, headers={"authorization": "Bearer dlpk_wrong"}).status_code
    assert 200 == client.get(address, headers=bearer("browse")).status_code


def test_openapi_is_told_to_those_who_may_browse(browser: Browser) -> None:
    client = browser(WITH_TOKENS)
    assert 401 == client.get("/api/openapi.json").status_code
    assert 200 == client.get("/api/openapi.json", headers=bearer("browse")).status_code


@pytest.mark.slow
@pytest.mark.parametrize(("address", "needed"), CHANGES.items())
def test_a_change_asks_for_its_role(browser: Browser, address: str, needed: str) -> None:
    client = browser(WITH_TOKENS)
    lower = {"trigger": "browse", "promote": "trigger"}[needed]
    assert 403 == client.post(address, headers=bearer(lower)).status_code
    assert client.post(address).status_code in (401, 403)
    assert client.post(address, headers=bearer(needed)).status_code in (422, 503)  # nothing was said; no Prefect


def test_signing_in_by_hand_and_out_again(browser: Browser) -> None:
    client = browser(WITH_TOKENS)
    wrong = client.post("/sign-in", data={"csrf": csrf(client, "/sign-in"), "token": "dlpk_no"})
    assert (401, True) == (wrong.status_code, "Nobody has this token" in wrong.text)
    form = {"csrf": csrf(client, "/sign-in"), "token": TOKENS["browse"], "next": "/models/roofs"}
    answer = client.post("/sign-in", data=form, follow_redirects=False)
    assert (303, "/models/roofs") == (answer.status_code, answer.headers["location"])
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKENS["browse"] not in cookie
    assert "browser" in client.get("/models/roofs").text
    client.post("/sign-out", data={"csrf": csrf(client, "/")})
    assert 303 == client.get("/", follow_redirects=False).status_code


@pytest.mark.parametrize(
    "address", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:x", "/a\nb"]
)
def test_signing_in_leads_to_no_other_site(browser: Browser, address: str) -> None:
    client = browser(WITH_TOKENS)
    form = {"csrf": csrf(client, "/sign-in"), "token": TOKENS["browse"], "next": address}
    assert "/" == client.post("/sign-in", data=form, follow_redirects=False).headers["location"]


def test_a_session_ends_with_its_token(browser: Browser) -> None:
    client = browser(WITH_TOKENS)
    client.post("/sign-in", data={"csrf": csrf(client, "/sign-in"), "token": TOKENS["promote"]})
    fewer = browser(Configuration(tokens=WITH_TOKENS.tokens[:1]))
    fewer.cookies = client.cookies
    assert 303 == fewer.get("/", follow_redirects=False).status_code


def test_a_form_of_another_site_changes_nothing(browser: Browser) -> None:
    client = browser()
    secret = csrf(client, "/models/roofs/3")
    form = {"number": "3", "reason": "why not", "csrf": secret}
    before = len(history("roofs"))
    for headers in (
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert 403 == client.post("/models/roofs/promote", data=form, headers=headers).status_code
    for told in ("", "0" * 64, "é"):
        assert 403 == client.post("/models/roofs/promote", data={**form, "csrf": told}).status_code
    other = browser()
    assert 403 == other.post("/models/roofs/promote", data=form).status_code  # the secret of another browser
    assert before == len(history("roofs"))


def test_a_promotion_and_the_way_back_are_told_in_the_history(browser: Browser) -> None:
    client = browser(WITH_TOKENS)
    headers = bearer("promote")
    told = client.post("/api/models/land-cover/promote", json={"number": 1, "reason": "steadier"}, headers=headers)
    assert ["champion"] == told.json()["aliases"]
    stale = {"reason": "worse", "holder": "3"}
    assert 409 == client.post("/models/land-cover/rollback", data=stale, headers=headers).status_code
    assert 422 == client.post("/models/land-cover/rollback", data={"reason": " "}, headers=headers).status_code
    client.post("/models/land-cover/rollback", data={"reason": "worse", "holder": "1"}, headers=headers)
    assert [("rolled back", "promoter", "worse"), ("promoted", "promoter", "steadier")] == [
        (event.action, event.by, event.reason) for event in history("land-cover")[:2]
    ]


def test_only_a_trusted_proxy_says_who_is_asking(browser: Browser) -> None:
    proxy = Proxy.model_validate({"trusted": ["10.0.0.0/24"], "roles": {"anna": "promote", "*": "browse"}})
    known = Configuration(proxy=proxy)
    headers = {"x-forwarded-user": "anna", "x-forwarded-proto": "https"}
    answer = browser(known, ("10.0.0.7", 1)).get("/", headers=headers)
    assert 200 == answer.status_code
    assert "promote" in answer.text
    assert "Secure" in answer.headers["set-cookie"]
    assert "strict-transport-security" in answer.headers
    stranger = browser(known, ("10.0.1.7", 1)).get("/", headers=headers, follow_redirects=False)
    assert 303 == stranger.status_code


def test_who_asks_too_often_waits(browser: Browser) -> None:
    client = browser(Configuration(tokens=WITH_TOKENS.tokens, limits=Limits(requests=60, sign_ins=6)))
    codes = [client.get("/api/models", headers={"authorization": "Bearer no"}).status_code for _ in range(8)]
    assert [401] * 5 == codes[:5]
    assert 429 == codes[-1]
    assert client.get("/health", headers={"authorization": "Bearer no"}).headers["retry-after"]


def test_a_large_request_is_refused(browser: Browser) -> None:
    client = browser()
    assert 413 == client.post("/models/roofs/promote", content=b"x" * (2**20 + 1)).status_code
    assert 413 == client.get("/", headers={"content-length": "-1"}).status_code
    pieces = (b"x" * 2**16 for _ in range(17))  # of which no header tells how many
    answer = client.post("/api/models/roofs/promote", content=pieces, headers={"content-type": "application/json"})
    assert 413 == answer.status_code
    told = client.post("/api/models/roofs/promote", content="{number: 4}", headers=answer.request.headers)
    assert (422, "the body is no JSON") == (told.status_code, told.json()["detail"].partition(":")[0])


@pytest.mark.parametrize("address", ["/", "/static/style.css", "/api/models", "/none", "/models/roofs/4/package"])
def test_every_answer_carries_its_guards(browser: Browser, address: str) -> None:
    headers = browser().get(address).headers
    assert "nosniff" == headers["x-content-type-options"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "DENY" == headers["x-frame-options"]


@pytest.mark.parametrize("path", ["..%2f..%2fapp.py", "%2e%2e/app.py", "vendor/../../app.py", "//etc/passwd"])
def test_static_files_come_out_of_their_folder_only(browser: Browser, path: str) -> None:
    assert 404 == browser().get(f"/static/{path}").status_code


def test_a_token_is_shown_once_and_kept_as_a_hash(dlpk_home: Path) -> None:
    made = CliRunner().invoke(token, ["anna", "--role", "promote"])
    secret = made.stdout.strip()
    place = dlpk_home / "browse.yaml"
    assert secret not in place.read_text()
    assert 0o600 == place.stat().st_mode & 0o777
    (entry,) = configuration.read().tokens
    assert ("anna", Role.PROMOTE, configuration.digest(secret)) == (entry.name, entry.role, entry.sha256)
    assert 0 != CliRunner().invoke(token, ["anna"]).exit_code


def test_a_token_may_come_by_the_environment(dlpk_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLPK_BROWSE_TOKEN", "f" * 32)
    CliRunner().invoke(token, ["anna"])
    assert [("anna", Role.BROWSE), ("operator", Role.PROMOTE)] == [
        (t.name, t.role) for t in configuration.read().tokens
    ]
    monkeypatch.setenv("DLPK_BROWSE_TOKEN", "secret")
    with pytest.raises(OptionsError, match="32 random letters"):
        configuration.read()


def test_others_are_served_only_when_they_must_sign_in() -> None:
    with pytest.raises(OptionsError, match="dlpk token"):
        check_address("0.0.0.0", Configuration())
    check_address("::1", Configuration())
    check_address("0.0.0.0", WITH_TOKENS)


@pytest.mark.parametrize(
    ("text", "told"),
    [("tokens: [{name: a}]", "tokens.0.role"), ("token: []", "token"), ("- a", "key: value"), ("a: [", "YAML")],
)
def test_a_wrong_configuration_is_told(dlpk_home: Path, text: str, told: str) -> None:
    (dlpk_home / "browse.yaml").write_text(text)
    with pytest.raises(OptionsError, match=told):
        configuration.read()


def test_a_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda _: None)
    monkeypatch.setattr(cli, "get_ready", lambda: None)
    told = CliRunner().invoke(cli.browse, ["--port", "0"])
    assert re.match(r"http://127\.0\.0\.1:[1-9]\d+  ", told.output), told.output


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StoreError, match=rf"127.0.0.1:{port}: cannot be listened at \(.*\); choose another one by"):
            free_port("127.0.0.1", port)
    assert port == free_port("127.0.0.1", port)
