"""Sign a bundle with a private key, and verify the signature, by the OpenSSF's model-signing.

The digests in a manifest reveal accidental changes, but whoever changes a file on purpose can change its digest too.
The signature leaves out ``reports/``, because verifying a bundle writes there.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from naflex_deploy.core.errors import BundleError, MissingExtraError, UsageError, explain_os_errors
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import locked
from naflex_deploy.core.manifest import FILE_NAME
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.lock import locked_bundle

SIGNATURE = "model.sig"
UNSIGNED = (SIGNATURE, "reports")

KEYS = "make a pair: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; openssl ec -in key.pem -pubout"


def sign(path: Path, private_key: Path) -> Path:
    """Check the files of a bundle and sign it. An earlier signature is replaced.

    Args:
        path: Directory of the bundle.
        private_key: An elliptic-curve key in PEM: P-256, P-384 or P-521, not encrypted.

    Returns:
        Path of the signature, which is a Sigstore bundle.

    Raises:
        UsageError: The key cannot be used.
        BundleError: A file of the bundle is missing or changed.
        OutputError: The signature cannot be written.
    """
    config = _module("signing").Config().set_hashing_config(_hashing())
    Bundle.open(path)  # what is no bundle gets no lock beside it
    try:
        config.use_elliptic_key_signer(private_key=private_key)
    except Exception as error:  # cryptography raises many kinds of exceptions
        raise _unusable(private_key, "an EC private key", error) from None
    with locked_bundle(path):
        bundle = Bundle.open(path)
        bundle.check(bundle.manifest.files)
        for name in (FILE_NAME, SIGNATURE):
            with locked(path / name):  # what killed writers left would be signed, and missed once it is removed
                pass
        with explain_os_errors(path / SIGNATURE), TemporaryDirectory() as folder:
            try:
                config.sign(path.resolve(), Path(folder) / SIGNATURE)
            except ValueError as error:
                raise UsageError(
                    f"{path} cannot be signed: {_line(error)}", hint="copy the bundle without links"
                ) from None
            with new_file(path / SIGNATURE) as partial:
                partial.write_bytes((Path(folder) / SIGNATURE).read_bytes())
    return path / SIGNATURE


def verify_signature(path: Path, public_key: Path) -> None:
    """Check that a key signed a bundle, and that no file has been changed, removed or added since.

    Args:
        path: Directory of the bundle.
        public_key: Path of the signer's public key in PEM.

    Raises:
        UsageError: The key cannot be used.
        BundleError: The bundle is not signed, was signed with another key, or has changed since.
    """
    config = _module("verifying").Config().set_hashing_config(_hashing())
    try:
        config.use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # cryptography raises many kinds of exceptions
        raise _unusable(public_key, "an EC public key", error) from None
    if not (path / SIGNATURE).is_file():
        raise BundleError(
            f"{path} is not signed: expected {SIGNATURE}", hint="sign it with `naflex-deploy bundle sign`"
        )
    try:
        config.verify(path.resolve(), path / SIGNATURE)
    except Exception as error:  # a damaged signature raises almost any exception
        raise BundleError(
            f"{path}: the signature is not valid: {_line(error)}",
            hint="do not use the bundle; get it again from whoever signed it",
        ) from None


def _hashing() -> Any:
    # By default the library ignores git's own files, which would then be neither signed nor noticed.
    return _module("hashing").Config().set_ignored_paths(paths=UNSIGNED, ignore_git_paths=False)


def _module(name: str) -> Any:
    try:
        return import_module(f"model_signing.{name}")
    except ImportError:
        raise MissingExtraError("model_signing", "sign") from None


def _unusable(key: Path, expected: str, error: Exception) -> UsageError:
    return UsageError(f"{key}: expected {expected} in PEM: {_line(error)}", hint=KEYS)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
