"""Changing anything in a signed bundle makes its signature invalid."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing._cli import main as model_signing

from naflex_deploy.core.errors import BundleError, MissingExtraError, UsageError
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.runtime.bundle.signature import SIGNATURE, sign, verify_signature
from naflex_deploy.runtime.bundle.strip import strip
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.tiny import VARIANT


def write_keys(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(private, public)"""
    return write_keys(tmp_path_factory.mktemp("keys"), "mine", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def signed(own_bundle: Path, keys: tuple[Path, Path]) -> Path:
    assert sign(own_bundle, keys[0]) == own_bundle / SIGNATURE
    return own_bundle


def test_it_holds_wherever_the_bundle_goes(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    verify_signature(signed, keys[1])
    moved = shutil.copytree(signed, tmp_path / "elsewhere" / "other-name")
    verify_signature(moved, keys[1])
    link = tmp_path / "link"
    link.symlink_to(moved)
    verify_signature(link, keys[1])


def test_the_tool_of_model_signing_accepts_it(signed: Path, keys: tuple[Path, Path]) -> None:
    arguments = ["verify", "key", str(signed), "--signature", str(signed / SIGNATURE), "--public_key", str(keys[1])]
    result = CliRunner().invoke(model_signing, arguments)
    assert result.exit_code == 0, result.output
    (signed / FILE_NAME).write_text("{}")
    assert CliRunner().invoke(model_signing, arguments).exit_code != 0


def test_verifying_leaves_a_signed_bundle_as_it_was(signed: Path, keys: tuple[Path, Path]) -> None:
    before = (signed / FILE_NAME).read_bytes()
    verification = verify(signed, keys[1])
    assert verification.passed
    assert verification.report is not None
    assert verification.report.parent == signed / "reports"
    assert (signed / FILE_NAME).read_bytes() == before
    verify_signature(signed, keys[1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def raise_gate(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    changed = manifest.model_copy(update={"created": "2020-01-01"})
    (bundle / FILE_NAME).write_text(changed.to_json())


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda bundle: flip(bundle / "portable.onnx.data"),
    "engine": lambda bundle: flip(bundle / f"variants/{VARIANT}/model.onnx"),
    "manifest": raise_gate,
    "removed": lambda bundle: (bundle / "golden.npz").unlink(),
    "added": lambda bundle: (bundle / "extra").write_text("x"),
    "added where git is ignored": lambda bundle: (bundle / ".gitignore").write_text("x"),
    "link": lambda bundle: (bundle / "extra").symlink_to("/etc/hostname"),
    "signature cut": lambda bundle: (bundle / SIGNATURE).write_bytes((bundle / SIGNATURE).read_bytes()[:300]),
    "signature empty": lambda bundle: (bundle / SIGNATURE).write_bytes(b""),
    "signature of nothing": lambda bundle: (bundle / SIGNATURE).write_text("{}"),
    "signature of another bundle": lambda bundle: edit_payload(bundle),
}


def edit_payload(bundle: Path) -> None:
    content = json.loads((bundle / SIGNATURE).read_text())
    content["dsseEnvelope"]["payload"] = content["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
    (bundle / SIGNATURE).write_text(json.dumps(content))


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(signed: Path, keys: tuple[Path, Path], change: str) -> None:
    CHANGES[change](signed)
    with pytest.raises(BundleError, match="the signature is not valid") as caught:
        verify(signed, keys[1])
    assert caught.value.code == 4
    assert "\n" not in str(caught.value)
    assert not (signed / "reports").exists()


def test_another_key_is_seen(signed: Path, tmp_path: Path) -> None:
    for name, curve in (("other", ec.SECP256R1()), ("longer", ec.SECP384R1())):
        _, public = write_keys(tmp_path, name, ec.generate_private_key(curve))
        with pytest.raises(BundleError, match="the signature is not valid"):
            verify_signature(signed, public)


def test_without_a_signature(own_bundle: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(BundleError, match=r"is not signed: expected model\.sig"):
        verify(own_bundle, keys[1])


def test_a_damaged_bundle_is_not_signed(own_bundle: Path, keys: tuple[Path, Path]) -> None:
    flip(own_bundle / "golden.npz")
    with pytest.raises(BundleError, match=r"golden\.npz was changed"):
        sign(own_bundle, keys[0])
    assert not (own_bundle / SIGNATURE).exists()


def test_a_bundle_of_links_is_not_signed(own_bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (own_bundle / "golden.npz").rename(tmp_path / "golden.npz")
    (own_bundle / "golden.npz").symlink_to(tmp_path / "golden.npz")
    with pytest.raises((UsageError, BundleError)):
        sign(own_bundle, keys[0])
    assert not (own_bundle / SIGNATURE).exists()


def test_keys_that_cannot_be_used(own_bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    rsa_private, rsa_public = write_keys(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    odd_private, odd_public = write_keys(tmp_path, "odd", ec.generate_private_key(ec.SECP256K1()))
    locked, garbage = tmp_path / "locked.pem", tmp_path / "garbage.pem"
    secret = ec.generate_private_key(ec.SECP256R1())
    locked.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    garbage.write_bytes(b"\x00\xff")
    for key in (keys[1], rsa_private, odd_private, locked, garbage, tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="expected an EC private key in PEM") as caught:
            sign(own_bundle, key)
        assert "openssl" in caught.value.hint
    assert not (own_bundle / SIGNATURE).exists()
    sign(own_bundle, keys[0])
    for key in (keys[0], rsa_public, odd_public, garbage, tmp_path / "none"):
        with pytest.raises(UsageError, match="expected an EC public key in PEM"):
            verify_signature(own_bundle, key)


def test_a_copy_for_the_edge_is_signed_anew(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    strip(signed, VARIANT, tmp_path / "edge")
    assert not (tmp_path / "edge" / SIGNATURE).exists()
    sign(tmp_path / "edge", keys[0])
    verify_signature(tmp_path / "edge", keys[1])


def test_the_extra_is_named(own_bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("signing", "verifying", "hashing"):
        monkeypatch.setitem(sys.modules, f"model_signing.{name}", None)
    for call in (lambda: sign(own_bundle, keys[0]), lambda: verify(own_bundle, keys[1])):
        with pytest.raises(MissingExtraError) as caught:
            call()
        assert caught.value.hint == "pip install 'naflex-deploy[sign]'"
    assert verify(own_bundle).passed
