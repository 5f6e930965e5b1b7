"""Buckets of a real S3 server: made once, and brought in line."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from registry import buckets
from registry.errors import StoreError
from tests.servers import Seaweed


@pytest.fixture
def s3(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    for name, value in weed.environment().items():
        monkeypatch.setenv(name, value)
    return weed


@pytest.mark.slow
def test_a_bucket_is_made_once_and_swept_of_unfinished_uploads(s3: Seaweed) -> None:
    first = buckets.ensure("fresh-bucket")
    assert "s3://fresh-bucket: made" == first[0]
    assert [] == [line for line in buckets.ensure("fresh-bucket") if "not done" not in line]
    rules = s3.client().get_bucket_lifecycle_configuration(Bucket="fresh-bucket")["Rules"]
    assert [7] == [rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in rules]


@pytest.mark.slow
def test_two_bootstraps_at_once_make_one_bucket(s3: Seaweed) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda _: buckets.ensure("raced-bucket"), range(4)))
    assert any("made" in line for lines in done for line in lines)


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_a_server_that_refuses_the_keys_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match="s3://other-bucket"):
        buckets.ensure("other-bucket")


def test_the_policy_refuses_plain_http() -> None:
    (statement,) = buckets.policy("b")["Statement"]
    assert ("Deny", {"Bool": {"aws:SecureTransport": "false"}}) == (statement["Effect"], statement["Condition"])
