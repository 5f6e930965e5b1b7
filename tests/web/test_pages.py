import hashlib
import html
import json
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from registry import promotion
from registry.catalog import find_version
from registry.errors import NotFound
from registry.tracking import Run
from registry.web import shelf
from registry.web.pages.compare import Row
from registry.web.pages.version import _page_of
from registry.web.shelf import Figure

PAGES = [
    *("/", "/?text=roof&sort=ap50", "/?extent=79,6,80,7&cell_size=0.2:1", "/models/roofs", "/models/roofs/4"),
    *("/models/palms/1", "/models/roofs/history", "/compare", "/compare?ref=roofs@4&ref=roofs@3", "/results"),
    *("/results?model=roofs", "/results/district-1", "/sign-in"),
]


@pytest.mark.parametrize("address", PAGES)
def test_every_page_is_whole(page: TestClient, address: str) -> None:
    answer = page.get(address)
    assert 200 == answer.status_code, answer.text
    assert answer.text.rstrip().endswith("</html>")
    assert 1 == answer.text.count("<h1")
    assert [] == re.findall(r"<script(?! src)|\son\w+=|\sstyle=", answer.text)  # what the content policy would refuse


@pytest.mark.slow
@pytest.mark.parametrize("address", PAGES)
def test_every_address_in_a_page_leads_somewhere(page: TestClient, address: str) -> None:
    text = page.get(address).text
    told = {
        html.unescape(one)
        for one in re.findall(r'(?:href|src|data-footprint|data-features|data-land)="(/[^"]*)"', text)
    }
    assert {} == {one: code for one in sorted(told) if (code := page.get(one).status_code) != 200}


def test_a_card_tells_task_classes_score_trend_and_picture(page: TestClient) -> None:
    (card,) = page.get("/?text=roofs").text.split('<li class="card">')[1:]
    for told in ("Object detection", "roof", "tank", "0.710", "ap50 over 4 versions: from 0.520 to 0.710", "champion"):
        assert told in card
    assert "/models/roofs/4/picture/ModelCharacteristics/show_results.png" in card


def test_a_version_tells_which_one_it_went_on_from(page: TestClient) -> None:
    told = 'Went on from</span><br><a href="/models/roofs/1">roofs@1</a>'
    assert told in page.get("/models/roofs/4").text
    assert "Went on from" not in page.get("/models/roofs/1").text


def test_the_conditions_of_a_search_must_all_hold(page: TestClient) -> None:
    def names(query: str) -> list[str]:
        return re.findall(r'<h2><a href="/models/([^"]+)"', page.get(f"/?{query}").text)

    assert ["land-cover", "palms", "roofs"] == names("")
    assert ["roofs", "palms"] == names("sort=ap50&model_type=&least=ap50%3D0.4")
    assert ["land-cover"] == names("class_name=trees")
    assert [] == names("text=roofs&model_type=ImageClassification")
    assert [] == names("extent=10,10,11,11")


def test_a_condition_that_cannot_be_read_is_told(page: TestClient) -> None:
    for query in ("least=high", "extent=1,2", "since=yesterday", "cell_size=x", "cell_size=nan", "sort=nothing"):
        answer = page.get(f"/?{query}")
        assert 422 == answer.status_code
        assert "expected" in answer.text or "nothing to sort by" in answer.text
    assert 422 == page.get("/?page=0").status_code


def test_what_is_not_there_is_told(page: TestClient) -> None:
    for address in ("/models/none", "/models/roofs/99", "/models/roofs/4/picture/none.png", "/results/none", "/none"):
        answer = page.get(address)
        assert 404 == answer.status_code
        assert "Not found" in answer.text


def test_the_head_of_a_page_is_had_alone(page: TestClient) -> None:
    for address in ("/", "/models/roofs/4", "/health", "/api/models"):
        assert (200, page.get(address).headers["content-type"]) == (
            page.head(address).status_code,
            page.head(address).headers["content-type"],
        )
    assert 404 == page.head("/models/none").status_code


def test_a_page_behind_the_last_leads_to_it(page: TestClient) -> None:
    for address in ("/?page=9", "/?text=roof&page=9", "/results?page=9", "/models/roofs?page=9"):
        assert "This page is empty" in page.get(address).text
    assert '<a href="/?text=roof&amp;page=1">' in page.get("/?text=roof&page=9").text


def test_scores_on_chips_that_it_was_trained_on_are_not_told_as_others(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "On 120 chips that it was never trained on." in page.get("/models/roofs/4").text
    version = find_version("roofs@4")
    document = dict(shelf.manifest(version))
    document["evaluation"] = {**document["evaluation"], "warnings": ["roofs was trained on these chips"]}
    monkeypatch.setitem(shelf._MANIFESTS, version.uri, document)
    warned = page.get("/models/roofs/4").text
    assert "never trained on" not in warned
    assert '<p class="warn">roofs was trained on these chips</p>' in warned


def test_a_promotion_of_one_who_has_not_seen_the_present_champion_is_refused(page: TestClient) -> None:
    text = page.get("/models/roofs/3").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text[text.index("/promote") :]))
    promotion.promote("roofs", 1, reason="by another")
    answer = page.post("/models/roofs/promote", data={**form, "reason": "better"}, follow_redirects=False)
    assert (409, 1) == (answer.status_code, find_version("roofs@champion").number)
    assert "roofs@1 is champion meanwhile" in answer.text


def test_a_package_comes_down_whole_or_in_part(page: TestClient) -> None:
    version = find_version("roofs@2")
    whole = page.get("/models/roofs/2/package")
    assert version.sha256 == hashlib.sha256(whole.content).hexdigest() == whole.headers["x-checksum-sha256"]
    assert 'attachment; filename="roofs.dlpk"' == whole.headers["content-disposition"]
    part = page.get("/models/roofs/2/package", headers={"range": "bytes=10-19"})
    assert (206, whole.content[10:20]) == (part.status_code, part.content)
    tail = page.get("/models/roofs/2/package", headers={"range": "bytes=-5"})
    assert whole.content[-5:] == tail.content
    assert 416 == page.get("/models/roofs/2/package", headers={"range": f"bytes={version.size}-"}).status_code
    assert 416 == page.get("/models/roofs/2/package", headers={"range": "bytes=-0"}).status_code
    head = page.head("/models/roofs/2/package")
    assert (str(version.size), b"") == (head.headers["content-length"], head.content)


def test_only_pictures_of_the_package_are_shown(page: TestClient) -> None:
    place = "/models/roofs/1/picture"
    answer = page.get(f"{place}/ModelCharacteristics/loss_graph.png")
    assert "image/png" == answer.headers["content-type"]
    tag = answer.headers["etag"]
    for told, status in ((tag, 304), (f'"x", W/{tag}', 304), ("*", 304), ('"x"', 200)):
        assert status == page.get(answer.request.url.path, headers={"if-none-match": told}).status_code
    for member in ("DetectObjects.py", "roofs.pth", "..%2F..%2Fmanifest.json", "%2Fetc%2Fpasswd"):
        assert 404 == page.get(f"{place}/{member}").status_code


def test_a_report_can_do_nothing_but_be_read(page: TestClient) -> None:
    answer = page.get("/models/roofs/1/report")
    assert "Average precision" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy


def test_a_version_leads_to_the_run_that_trained_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def url(run: Run) -> str:
        if run.id == "lost":
            raise NotFound("no such run")
        return f"http://mlflow/#/experiments/3/runs/{run.id}"

    monkeypatch.setattr(Run, "url", property(url))
    assert ["", "", "http://mlflow/#/experiments/3/runs/abc"] == [_page_of(run) for run in ("", "lost", "abc")]


def test_a_smaller_error_is_a_gain() -> None:
    small, large = Figure("", 0.1), Figure("", 0.3)
    for name, gain in (("ap50", -0.2), ("calibration_error", 0.2), ("validation_loss", 0.2)):
        assert gain == pytest.approx(Row(name, (small, large), False, []).gain)
    assert 0 == Row("ap50", (small, None), False, []).gain


def test_two_versions_are_compared_score_by_score(page: TestClient) -> None:
    text = page.get("/compare?ref=roofs@4&ref=roofs@1").text
    assert "+0.190" in text
    assert "Both were scored on the same held-out chips." in text
    assert "train.epochs" in text
    assert "roofs.pth" in text
    assert 422 == page.get("/compare?ref=roofs@4&ref=none@1").status_code


def test_a_damaged_store_is_told_and_not_shown(page: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    version = find_version("roofs@3")
    place = Path(version.uri.removeprefix("file://"))
    content = place.read_bytes()
    place.chmod(0o600)
    try:
        place.write_bytes(content[:-200])
        assert page.get("/models/roofs/3/picture/ModelCharacteristics/loss_graph.png").status_code in (422, 503)
        assert 200 == page.get("/models/roofs/3").status_code
    finally:
        place.write_bytes(content)


def test_the_results_of_a_package_stay_its_own_on_the_map(page: TestClient) -> None:
    (one, *_) = page.get("/api/results").json()
    digest = one["properties"]["dlpk:sha256"]
    address = f"/results.geojson?sha256={digest}&amp;page=1"
    assert address in page.get(f"/results?sha256={digest}").text
    drawn = page.get(address.replace("&amp;", "&")).json()["features"]
    assert 0 < len(drawn) <= len(page.get("/api/results").json())
    assert [] == page.get(f"/results.geojson?sha256={'0' * 64}").json()["features"]


def test_results_come_newest_first_by_when_they_were_made(page: TestClient, shelf: Path) -> None:
    item = shelf / "results" / "district-2" / "item.json"
    document = json.loads(item.read_text())
    document["properties"]["created"] = "2026-11-01T00:00:00+00:00"
    item.write_text(json.dumps(document))
    assert "district-2" == page.get("/api/results").json()[0]["id"]


def test_runs_are_not_offered_without_a_prefect_server(page: TestClient) -> None:
    assert "/deployments" not in page.get("/").text
    answer = page.get("/runs")
    assert 503 == answer.status_code
    assert "PREFECT_API_URL" in answer.text


def test_programs_get_the_same_as_json(page: TestClient) -> None:
    found = page.get("/api/models?count=2").json()
    assert (3, ["land-cover@3", "palms@1"]) == (found["total"], [version["ref"] for version in found["versions"]])
    assert [4, 3, 2, 1] == [version["number"] for version in page.get("/api/models/roofs").json()["versions"]]
    told = page.get("/api/models/roofs/4").json()
    assert "c0ffee" * 6 == told["manifest"]["git_commit"]
    assert page.get(told["links"]["package"]).status_code == 200
    assert 0.13 == pytest.approx(page.get("/api/compare?a=roofs@4&b=roofs@3").json()["scores"]["ap50"]["difference"])
    assert ["promoted", "promoted"] == [event["action"] for event in page.get("/api/models/roofs/history").json()]
    assert {"detail"} == set(page.get("/api/models/none").json())
