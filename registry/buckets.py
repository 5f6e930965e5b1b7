"""The buckets of an S3 server: made when missing, closed to the public, swept of what killed uploads left.

A server that does not know one of the rules costs that rule, not the bucket; it is told. Rules of others stay.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from registry.errors import StoreError
from registry.stores.s3 import connect

UNFINISHED_DAYS = 7
SWEEP, TLS_ONLY = "unfinished-uploads", "NoPlainHttp"  # names of our rules
THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
NONE_YET = ("NoSuchBucketPolicy", "NoSuchLifecycleConfiguration", "NoSuchPublicAccessBlockConfiguration")
UNKNOWN = ("NotImplemented", "501", "MethodNotAllowed", "AccessDenied")
CLOSED = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def ensure(name: str) -> list[str]:
    """Bring a bucket in line; what was done, in words, [] when nothing was to do. Raises StoreError."""
    client = connect(f"s3://{name}").client
    try:
        return [*_made(client, name), *(line for rule in (_closed, _swept, _encrypted) for line in rule(client, name))]
    except (ClientError, BotoCoreError) as error:
        do = "check DLPK_S3_ENDPOINT_URL and the rights of AWS_ACCESS_KEY_ID"
        raise StoreError(f"the bucket cannot be made ({error})", where=f"s3://{name}", do=do) from error


def tls_only(name: str) -> dict[str, Any]:
    """A statement of a policy: nobody without TLS; who may come at all is a matter of the keys."""
    resources = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    plain = {"Bool": {"aws:SecureTransport": "false"}}
    deny = {"Sid": TLS_ONLY, "Effect": "Deny", "Principal": "*", "Action": "s3:*"}
    return {**deny, "Resource": resources, "Condition": plain}


def _made(client: Any, name: str) -> list[str]:
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if _code(error) not in ("404", "NoSuchBucket"):
            raise
    else:
        return []
    try:
        client.create_bucket(Bucket=name, **_region(client))
    except ClientError as error:
        if _code(error) not in THERE:  # another bootstrap was quicker
            raise
    return [f"s3://{name}: made"]


def _region(client: Any) -> dict[str, Any]:
    """AWS wants to be told, outside its first region."""
    region = client.meta.region_name
    return {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}


def _closed(client: Any, name: str) -> list[str]:
    wanted = dict.fromkeys(CLOSED, True)
    return _ruled(
        f"s3://{name}: closed to the public",
        lambda: _asked(lambda: client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]) == wanted,
        lambda: client.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=wanted),
    )


def _swept(client: Any, name: str) -> list[str]:
    abort = {"DaysAfterInitiation": UNFINISHED_DAYS}
    rule = {"ID": SWEEP, "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": abort}

    def add() -> None:
        rules = [*(other for other in _rules(client, name) if other.get("ID") != SWEEP), rule]
        client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})

    return _ruled(
        f"s3://{name}: unfinished uploads end after {UNFINISHED_DAYS} days",
        lambda: any(r.get("AbortIncompleteMultipartUpload") == abort for r in _rules(client, name)),
        add,
    )


def _rules(client: Any, name: str) -> list[Mapping[str, Any]]:
    found = _asked(lambda: client.get_bucket_lifecycle_configuration(Bucket=name))
    return list(found["Rules"]) if found else []


def _encrypted(client: Any, name: str) -> list[str]:
    """A server without TLS, on one machine or in a closed network, would refuse everybody."""
    if not client.meta.endpoint_url.startswith("https:"):
        return []
    wanted = tls_only(name)

    def add() -> None:
        known = _policy(client, name)
        others = [other for other in known["Statement"] if other.get("Sid") != TLS_ONLY]
        client.put_bucket_policy(Bucket=name, Policy=json.dumps({**known, "Statement": [*others, wanted]}))

    return _ruled(f"s3://{name}: reached over TLS only", lambda: wanted in _policy(client, name)["Statement"], add)


def _policy(client: Any, name: str) -> dict[str, Any]:
    """With a list of statements, which may be a single one in the document."""
    found = _asked(lambda: client.get_bucket_policy(Bucket=name))
    known = json.loads(found["Policy"]) if found else {"Version": "2012-10-17", "Statement": []}
    statements = known["Statement"]
    return {**known, "Statement": statements if isinstance(statements, list) else [statements]}


def _ruled(what: str, holds: Callable[[], bool], rule: Callable[[], object]) -> list[str]:
    try:
        if holds():
            return []
        rule()
    except ClientError as error:
        if _code(error) not in UNKNOWN:
            raise
        return [f"{what}: not done, the server said {_code(error)}"]
    return [what]


def _asked(ask: Callable[[], Any]) -> Any:
    """What the server has; None while it has none."""
    try:
        return ask()
    except ClientError as error:
        if _code(error) in NONE_YET:
            return None
        raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
