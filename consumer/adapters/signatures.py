"""
Ed25519 signatures (RFC 8032) of model bundles: 64 bytes over the manifest, beside it.

As `openssl pkeyutl -sign -rawin` makes them and `-verify -rawin` checks them. The manifest states
the digest of the model file, so that one signature covers both.
"""

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from consumer.core.manifest import MANIFEST_FILE
from consumer.errors import ConfigError, ModelError

SIGNATURE_FILE: Final = f"{MANIFEST_FILE}.sig"
SIGNATURE_BYTES: Final = 64


def require_signature(folder: Path, manifest: bytes, public_key: Path) -> None:
    """
    Return when the manifest's bytes were signed by the holder of the key, a PEM file.

    Raises ModelError for a signature that is missing or another's, ConfigError for a bad key.
    """
    key = _public_key(public_key)
    path = folder / SIGNATURE_FILE
    try:
        with path.open("rb") as file:
            signature = file.read(SIGNATURE_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}; model.public_key asks for a signature, which"
            " `fraudstream sign` makes"
        ) from error
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise ModelError(
            f"{folder / MANIFEST_FILE} was not signed as it is by the key of {public_key}"
            " (model.public_key)"
        ) from None


def write_signature(
    folder: Path, manifest: bytes, private_key: Path, passphrase: bytes | None
) -> Path:
    """Sign the manifest's bytes, and return where the signature is. Raises ConfigError."""
    key = _private_key(private_key, passphrase)
    path = folder / SIGNATURE_FILE
    path.write_bytes(key.sign(manifest))
    return path


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"model.public_key: {path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            f"model.public_key: {path} is no Ed25519 public key in PEM; make one with `openssl"
            " genpkey -algorithm ed25519` and `openssl pkey -pubout`"
        )
    return key


def _private_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), passphrase)
    except OSError as error:
        raise ConfigError(f"--key: {path} cannot be read: {error.strerror}") from error
    except TypeError as error:  # the library's words: whether a passphrase is missing or too much
        raise ConfigError(f"--key: {path}: {error} (--passphrase-file)") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"--key: {path} is no private key in PEM, or its passphrase is another"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"--key: {path} is no Ed25519 key")
    return key
