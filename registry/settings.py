"""Where things are kept, out of the environment; read at each call, so a test or a flow may change it.

DLPK_HOME                 ~/.dlpk                       caches, and what the two defaults below live in
DLPK_STORE                file://<home>/store           where published packages go: file:///... or s3://bucket/prefix
DLPK_RESULTS              file://<home>/results         where results over new scenes go: file:///... or s3://bucket/prefix
MLFLOW_TRACKING_URI       sqlite:///<home>/mlflow.db    runs and model versions
DLPK_S3_ENDPOINT_URL      AWS_ENDPOINT_URL, else AWS    an S3 server of one's own
DLPK_S3_CHECKSUMS         when_supported                when_required for older servers that refuse the CRC32 headers
DLPK_TRUSTED              none                          folders, joined by :, whose models are one's own code
DLPK_CATALOG              none                          MLflow's database, for reading, beside an HTTP tracking URI
DLPK_USER                 name@host of this process     who publishes and promotes
DLPK_SIGN_KEY             none                          a private key (PEM), or keyless: signs what is published
DLPK_SIGN_PASSWORD        none                          of that key
DLPK_SIGNERS              none                          public keys or IDENTITY=https://ISSUER, joined by commas: no
                                                        package runs that none of them signed
DLPK_SIGSTORE             the public one                trust configuration of another Sigstore, a JSON file
DLPK_ARCGIS_TOKENS        none                          HOST=TOKEN, joined by commas: for layers of ArcGIS services
"""

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from registry.errors import OptionsError

Checksums = Literal["when_supported", "when_required"]


@dataclass(frozen=True)
class Settings:
    """What the environment says now."""

    home: Path
    store: str
    results: str
    tracking_uri: str
    s3_endpoint: str | None
    s3_checksums: Checksums
    trusted: tuple[Path, ...] = ()
    user: str = ""
    catalog: str = ""
    sign_key: str = ""
    signers: tuple[str, ...] = ()
    sigstore: Path | None = None
    arcgis_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)  # by host

    @property
    def cache(self) -> Path:
        """Everything below may be deleted at any time."""
        return self.home / "cache"


def settings() -> Settings:
    """Raises OptionsError when a variable holds a value that is not one of its choices."""
    home = Path(os.environ.get("DLPK_HOME") or "~/.dlpk").expanduser().absolute()
    return Settings(
        home=home,
        store=os.environ.get("DLPK_STORE") or (home / "store").as_uri(),
        results=os.environ.get("DLPK_RESULTS") or (home / "results").as_uri(),
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
        s3_endpoint=os.environ.get("DLPK_S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL") or None,
        trusted=tuple(Path(one).absolute() for one in os.environ.get("DLPK_TRUSTED", "").split(os.pathsep) if one),
        catalog=os.environ.get("DLPK_CATALOG", ""),
        user=os.environ.get("DLPK_USER") or _user(),
        sign_key=os.environ.get("DLPK_SIGN_KEY", ""),
        signers=tuple(one.strip() for one in os.environ.get("DLPK_SIGNERS", "").split(",") if one.strip()),
        sigstore=Path(sigstore).absolute() if (sigstore := os.environ.get("DLPK_SIGSTORE")) else None,
        arcgis_tokens=_tokens(os.environ.get("DLPK_ARCGIS_TOKENS", "")),
        s3_checksums=_checksums(os.environ.get("DLPK_S3_CHECKSUMS") or "when_supported"),
    )


def _checksums(value: str) -> Checksums:
    if value not in ("when_supported", "when_required"):
        raise OptionsError("expected when_supported or when_required", where="DLPK_S3_CHECKSUMS", got=value)
    return cast("Checksums", value)


def _tokens(value: str) -> dict[str, str]:
    pairs = [one.strip().partition("=") for one in value.split(",") if one.strip()]
    if not all(host and token for host, _, token in pairs):
        raise OptionsError("expected HOST=TOKEN, joined by commas", where="DLPK_ARCGIS_TOKENS")
    return {host.lower(): token for host, _, token in pairs}


def _user() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a container's user without a name
        return f"{os.getuid()}@{socket.gethostname()}"
