"""Who vouches for a package: signatures of OpenSSF's model-signing beside the file, Sigstore bundles over its sha256.

    roofs.dlpk
    roofs.dlpk.4f1c09aa2b7e.sig    one for each signer; a key's name is the start of its fingerprint

DLPK_SIGN_KEY signs whatever is published. Where DLPK_SIGNERS names signers, no package runs that none of them signed.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from registry.errors import Conflict, NotFound, OptionsError, PackageError, StoreError
from registry.files import write_text
from registry.settings import settings

if TYPE_CHECKING:
    from registry.stores import Store

KEYLESS = "keyless"
SUFFIX = ".sig"
_HINT = re.compile(r'"publicKey":\s*\{\s*"hint":\s*"([0-9a-f]{64})"')
_OTHER = "no signature of a known signer holds"
_DO = "have it signed with `dlpk sign`, or name its signer in DLPK_SIGNERS"


@dataclass(frozen=True)
class Signer:
    """A public key in a file, or who signed without one: an identity, and the issuer who confirmed it."""

    key: Path | None = None
    identity: str = ""
    issuer: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`team.pub`, or `ada@example.org=https://accounts.example.org`. Raises NotFound when no key is there."""
        identity, equals, issuer = text.partition("=")
        if equals and issuer.startswith("https://"):
            return cls(identity=identity, issuer=issuer)
        if not Path(text).is_file():
            raise NotFound("no such public key", where=text, do="give a PEM file, or IDENTITY=https://ISSUER")
        return cls(key=Path(text))

    def __str__(self) -> str:
        return str(self.key) if self.key else f"{self.identity} ({self.issuer})"


def known_signers() -> tuple[Signer, ...]:
    """Those of DLPK_SIGNERS; none when packages need no signature."""
    return tuple(map(Signer.parse, settings().signers))


# -- sign --------------------------------------------------------------------------------------------------------------
def sign(dlpk: Path, key: str) -> Path:
    """Write a signature beside the package, by a private key (PEM, of the curves P-256, P-384 or P-521) or `keyless`.

    The key's password is DLPK_SIGN_PASSWORD. Raises OptionsError for a key that cannot be used, StoreError when
    Sigstore is out of reach.
    """
    text = signature(dlpk, key)
    return write_text(dlpk.with_name(_name(dlpk.name, text)), text)


def signature(dlpk: Path, key: str) -> str:
    """The bundle itself; see `sign`."""
    signing = _library("signing")
    with _told(key), TemporaryDirectory() as work, redirect_stdout(sys.stderr):
        config = signing.Config()
        if key == KEYLESS:
            trust, token = settings().sigstore, os.environ.get("SIGSTORE_IDENTITY_TOKEN")
            config.use_sigstore_signer(use_ambient_credentials=True, identity_token=token, trust_config=trust)
        else:
            password = os.environ.get("DLPK_SIGN_PASSWORD")
            config.use_elliptic_key_signer(private_key=key, password=password.encode() if password else None)
        config.sign(dlpk, made := Path(work) / "signature")
        return made.read_text(encoding="utf-8")


def _name(dlpk: str, text: str) -> str:
    """By the key that signed, so that nobody signs twice; without a key by the bundle."""
    found = _HINT.search(text)
    return f"{dlpk}.{(found[1] if found else sha256(text.encode()).hexdigest())[:12]}{SUFFIX}"


@contextmanager
def _told(key: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
        do = "give a PEM file with an EC private key; a password goes into DLPK_SIGN_PASSWORD"
        raise OptionsError(f"cannot be used to sign ({_line(error)})", where=key, do=do) from error
    except Exception as error:
        do = "run it where Sigstore can be reached, or sign with a key"
        raise StoreError(f"Sigstore did not answer ({_line(error)})", where=key, do=do) from error


# -- check -------------------------------------------------------------------------------------------------------------
def signatures(dlpk: Path) -> list[Path]:
    """Those that lie beside the package."""
    start = f"{dlpk.name}."
    return sorted(p for p in dlpk.parent.glob(f"*{SUFFIX}") if p.name.startswith(start) and p.is_file())


def signed_by(dlpk: Path, signers: Sequence[Signer]) -> Signer:
    """The first of these signers who signed just these bytes. Raises PackageError when none did."""
    found = signatures(dlpk)
    why = "it has none"
    for signer in signers:
        for path in found:
            why = _flaw(dlpk, path, signer)
            if not why:
                return signer
    raise PackageError(f"{_OTHER} ({why})", where=dlpk, do=_DO)


def demand(path: Path) -> None:
    """Raises PackageError when signatures are asked for and what is opened has none that counts.

    A folder carries no signature: it must be the user's own (DLPK_TRUSTED), or one that a package was unpacked into.
    """
    if not (signers := known_signers()):
        return
    if path.suffix.lower() == ".dlpk" and path.is_file():
        signed_by(path, signers)
        return
    own = (settings().cache / "models", *settings().trusted)
    if not any(path.resolve().is_relative_to(folder.resolve()) for folder in own):
        do = "give the signed .dlpk, or name the folder in DLPK_TRUSTED"
        raise PackageError("a model folder carries no signature", where=path, do=do)


def _flaw(dlpk: Path, path: Path, signer: Signer) -> str:
    """What is wrong with a signature; "" when it holds. It may come from anybody, so anything may be in it."""
    verifying = _library("verifying")
    config = verifying.Config()
    try:
        if signer.key:
            config.use_elliptic_key_verifier(public_key=signer.key)
        else:
            known = {"identity": signer.identity, "oidc_issuer": signer.issuer}
            config.use_sigstore_verifier(**known, trust_config=settings().sigstore)
    except Exception as error:
        do = "give a PEM file with an EC public key; without a key Sigstore's roots must be in reach"
        raise OptionsError(f"cannot be used to check ({_line(error)})", where=signer, do=do) from error
    try:
        with redirect_stdout(sys.stderr):
            config.verify(dlpk, path)
    except Exception as error:  # noqa: BLE001  (nothing in it is believed)
        return f"{path.name}: {_line(error)}"
    return ""


# -- keep --------------------------------------------------------------------------------------------------------------
def keep(store: "Store", package: str, text: str) -> str:
    """Put a signature beside the package of that key in a store; its key there. The first of each signer stands."""
    key = _name(package, text)
    with suppress(Conflict):
        store.put_bytes(key, text.encode())
    return key


def bring(store: "Store", package: str, dlpk: Path) -> None:
    """Copy the signatures of the package of that key in a store to beside the fetched file."""
    for key in store.list(f"{package}."):
        if key.endswith(SUFFIX):
            write_text(dlpk.with_name(key.rpartition("/")[2]), store.get_bytes(key).decode("utf-8", "replace"))


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{name}")
    except ModuleNotFoundError as error:
        do = 'install it: pip install "dlpk-flows[sign]"'
        raise OptionsError("signatures need the library model-signing", where=error.name or "", do=do) from error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "it is of other bytes" if text.startswith("Signature mismatch") else text[:200] or type(error).__name__
