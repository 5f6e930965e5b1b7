"""Who vouches for a package: it is signed when it is published, and what nobody known signed does not run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flows.cli import main
from registry import catalog, signing
from registry.catalog import Version
from registry.dlpk import open_model
from registry.errors import NotFound, OptionsError, PackageError, StoreError
from registry.pruning import prune
from registry.settings import settings
from registry.stores import open_store
from tests.registry.conftest import make_package

pytest.importorskip("model_signing")
Publish = Callable[..., Version]


def make_keys(folder: Path, name: str = "team", password: bytes | None = None) -> tuple[Path, Path]:
    """A private key and its public key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, how))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path)


def test_a_signature_holds_for_its_key_and_these_bytes(dlpk: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    made = signing.sign(dlpk, str(keys[0]))
    team, stranger = signing.Signer(keys[1]), signing.Signer(make_keys(tmp_path, "stranger")[1])
    assert [made] == signing.signatures(dlpk)
    assert team == signing.signed_by(dlpk, [stranger, team])
    with pytest.raises(PackageError, match=r"no signature of a known signer holds \(roofs\.dlpk\..*Key mismatch"):
        signing.signed_by(dlpk, [stranger])
    dlpk.write_bytes(dlpk.read_bytes() + b"x")
    with pytest.raises(PackageError, match=r"\.sig: it is of other bytes\); have it signed with `dlpk sign`"):
        signing.signed_by(dlpk, [team])


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"publicKey": {"hint": "../../x"}}', "\ud800", "9" * 5000])
def test_a_signature_full_of_nonsense_counts_for_nothing(dlpk: Path, keys: tuple[Path, Path], content: str) -> None:
    dlpk.with_name("roofs.dlpk.0.sig").write_text(content, errors="surrogatepass")
    with pytest.raises(PackageError, match="no signature of a known signer holds") as caught:
        signing.signed_by(dlpk, [signing.Signer(keys[1])])
    assert "\n" not in str(caught.value)


def test_what_is_published_is_signed_once(
    published: Publish, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLPK_SIGN_KEY", str(keys[0]))
    version = published()
    files = open_store(settings().store).list(f"roofs/{version.sha256}/")
    assert 1 == sum(file.endswith(".sig") for file in files)
    catalog.sign("roofs@1", str(keys[0]))
    assert files == open_store(settings().store).list(f"roofs/{version.sha256}/")
    path = catalog.fetch("roofs@1", signatures=True)
    assert keys[1] == signing.signed_by(path, [signing.Signer(keys[1])]).key


def test_a_fetched_copy_can_be_checked_where_it_lies(
    published: Publish, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    published()
    catalog.sign("roofs@1", str(keys[0]))
    copy = catalog.fetch("roofs", tmp_path / "copy", signatures=True)
    assert signing.Signer(keys[1]) == signing.signed_by(copy, [signing.Signer(keys[1])])


def test_only_what_is_signed_runs_where_signers_are_named(
    dlpk: Path, published: Publish, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    published()
    monkeypatch.setenv("DLPK_SIGNERS", f"{keys[1]}, ada@example.org=https://accounts.example.org")
    for path in (dlpk, catalog.fetch("roofs@1")):
        with pytest.raises(PackageError, match="it has none"):
            open_model(path)
    with pytest.raises(PackageError, match="a model folder carries no signature"):
        signing.demand(dlpk.parent / "roofs")
    catalog.sign("roofs@1", str(keys[0]))
    signing.demand(open_model(catalog.fetch("roofs@1")).path)
    monkeypatch.setenv("DLPK_TRUSTED", str(dlpk.parent))
    signing.demand(dlpk.parent / "roofs")


def test_a_pruned_version_leaves_no_signature(published: Publish, keys: tuple[Path, Path]) -> None:
    published(b"one")
    catalog.sign("roofs@1", str(keys[0]))
    published(b"two")
    gone = catalog.find_version("roofs@1").sha256
    prune(1)
    assert [] == open_store(settings().store).list(f"roofs/{gone}/")


def test_the_commands_sign_and_verify(dlpk: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*words: object) -> str:
        return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=True).output

    assert "signature" in run("sign", dlpk, "--key", keys[0])
    assert str(keys[1]) == json.loads(run("verify", dlpk, "--key", keys[1]))["signed_by"]
    assert "signed_by" not in json.loads(run("verify", dlpk))
    assert "Key mismatch" in run("verify", dlpk, "--key", make_keys(tmp_path, "stranger")[1])
    assert "expected a key to sign with" in run("sign", dlpk)


@pytest.mark.slow
def test_the_tool_of_the_library_reads_our_signature_and_we_read_its_own(dlpk: Path, keys: tuple[Path, Path]) -> None:
    tool = [sys.executable, "-m", "model_signing"]
    own = signing.sign(dlpk, str(keys[0]))
    check = [*tool, "verify", "key", str(dlpk), "--signature", str(own), "--public_key", str(keys[1])]
    assert 0 == subprocess.run(check, check=False, capture_output=True).returncode
    own.unlink()
    theirs = str(dlpk.with_name("roofs.dlpk.sig"))
    subprocess.run([*tool, "sign", "key", str(dlpk), "--signature", theirs, "--private_key", str(keys[0])], check=True)
    assert signing.Signer(keys[1]) == signing.signed_by(dlpk, [signing.Signer(keys[1])])


def test_a_key_that_does_not_fit_is_told(dlpk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = make_keys(tmp_path, "locked", b"hello")
    for password in ("", "wrong"):
        monkeypatch.setenv("DLPK_SIGN_PASSWORD", password)
        with pytest.raises(OptionsError, match=r"locked\.pem: cannot be used to sign \(.*DLPK_SIGN_PASSWORD"):
            signing.sign(dlpk, str(private))
    monkeypatch.setenv("DLPK_SIGN_PASSWORD", "hello")
    assert signing.sign(dlpk, str(private)).is_file()
    for wrong in (public, tmp_path / "none.pem", tmp_path):
        with pytest.raises(OptionsError, match="cannot be used to sign"):
            signing.sign(dlpk, str(wrong))
    with pytest.raises(OptionsError, match="cannot be used to check"):
        signing.signed_by(dlpk, [signing.Signer(private)])
    with pytest.raises(NotFound, match="no such public key"):
        signing.Signer.parse("none.pub")


def test_without_a_key_a_sigstore_is_needed(dlpk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trust.json").write_text("{}")
    monkeypatch.setenv("DLPK_SIGSTORE", str(tmp_path / "trust.json"))
    with pytest.raises((StoreError, OptionsError), match=r"keyless: .*; ") as caught:
        signing.sign(dlpk, signing.KEYLESS)
    assert "\n" not in str(caught.value)
    assert signing.Signer.parse("a@b.org=https://c.org") == signing.Signer(identity="a@b.org", issuer="https://c.org")


def test_a_package_signed_elsewhere_keeps_its_signature(
    keys: tuple[Path, Path], mlflow_home: Path, tmp_path: Path
) -> None:
    from registry.importing import import_model

    dlpk = make_package(tmp_path / "elsewhere")
    signing.sign(dlpk, str(keys[0]))
    assert mlflow_home.is_dir()
    version, _ = import_model(dlpk)
    fetched = catalog.fetch(version.ref, tmp_path / "there", signatures=True)
    assert signing.signed_by(fetched, [signing.Signer(keys[1])])
