"""Buckets of a real S3 server: made once, and brought in line."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from moto import mock_aws

from registry import buckets
from registry.errors import StoreError
from registry.stores.s3 import connect
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


def test_the_rules_of_others_stay() -> None:
    archive = {"ID": "archive", "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 30}}
    partner = {"Sid": "partner", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject"}
    partner["Resource"] = "arn:aws:s3:::theirs/a/*"
    with mock_aws():
        client = connect("s3://theirs").client
        client.create_bucket(Bucket="theirs")
        client.put_bucket_lifecycle_configuration(Bucket="theirs", LifecycleConfiguration={"Rules": [archive]})
        client.put_bucket_policy(Bucket="theirs", Policy=json.dumps({"Version": "2012-10-17", "Statement": partner}))
        assert 3 == len(buckets.ensure("theirs"))
        assert [] == buckets.ensure("theirs")
        rules = client.get_bucket_lifecycle_configuration(Bucket="theirs")["Rules"]
        document = json.loads(client.get_bucket_policy(Bucket="theirs")["Policy"])
    assert ["archive", "unfinished-uploads"] == [rule["ID"] for rule in rules]
    assert [partner, buckets.tls_only("theirs")] == document["Statement"]


def test_the_policy_refuses_plain_http() -> None:
    statement = buckets.tls_only("b")
    assert ("Deny", {"Bool": {"aws:SecureTransport": "false"}}) == (statement["Effect"], statement["Condition"])
