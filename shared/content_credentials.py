"""Content Credentials (C2PA): a signed statement inside the photo of how it was made, which anybody can check.

Signing is local: no time-stamp authority is asked and no revocation looked up, so it takes milliseconds and cannot
wait for anybody. What it says is the tool and the kind of picture, and nothing about a person.
"""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from shared.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

TOOL = "Cuggu photos"

# c2pa-rs, docs/settings: everything that would make it larger, slower, or ask the network.
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}


class CredentialsWrong(ValueError):
    """No photo can be signed with what is configured; the message says what is wrong, in one line without secrets."""


class NotSigned(Exception):
    """This photo could not be signed; the message says why, for our eyes only."""


class PhotoSigner:
    """Signs JPEGs with one certificate. Thread-safe."""

    def __init__(self, certificates: bytes, private_key: bytes) -> None:
        """Of PEM: the signer's certificate with those between it and the root, and its key without a password.

        Raises:
            CredentialsWrong: they are not, do not belong together, are out of date, or may not sign.
        """
        import c2pa  # noqa: PLC0415 - a library of 23 MB, for those who sign

        self._c2pa = c2pa
        chain, key = _read_chain(certificates), _read_key(private_key)
        _check_belonging(chain[0], key)
        self.valid_until = _check_dates(chain[0])
        self.name = chain[0].subject.rfc4514_string()
        try:
            signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(_algorithm(key), certificates, private_key, None))
            self._context = c2pa.Context(settings=c2pa.Settings.from_dict(_SETTINGS), signer=signer)
            self._prove()
        except (c2pa.C2paError, NotSigned) as error:
            raise CredentialsWrong(f"C2PA_CERTIFICATE_PATH cannot sign photos: {_one_line(error)}") from error

    def sign(self, jpeg: bytes, source_type: str) -> bytes:
        """The same picture with its credentials; `source_type` is an address of IPTC's digitalsourcetype.

        No two calls give the same bytes: the statement has an id and salts of its own. Raises NotSigned.
        """
        created = {
            "action": "c2pa.created",
            "digitalSourceType": source_type,
            "softwareAgent": {"name": TOOL},
        }
        manifest = {
            "claim_generator_info": [{"name": TOOL}],
            "format": "image/jpeg",
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
        }
        out = BytesIO()
        try:
            with self._c2pa.Builder(manifest, context=self._context) as builder:
                builder.sign("image/jpeg", BytesIO(jpeg), out)
        except self._c2pa.C2paError as error:
            raise NotSigned(_one_line(error)) from error
        return out.getvalue()

    def _prove(self) -> None:
        """Sign a picture and read it back. That nobody here knows the root is no fault: viewers know theirs."""
        blank = BytesIO()
        Image.new("RGB", (16, 16)).save(blank, "JPEG")
        signed = self.sign(blank.getvalue(), "http://cv.iptc.org/newscodes/digitalsourcetype/composite")
        reading = self._c2pa.Context(settings=self._c2pa.Settings.from_dict(_SETTINGS))
        with self._c2pa.Reader("image/jpeg", BytesIO(signed), context=reading) as reader:
            state, found = reader.get_validation_state(), reader.get_validation_results() or {}
        if state not in ("Valid", "Trusted"):
            failures = found.get("activeManifest", {}).get("failure", [])
            raise NotSigned(", ".join(failure["code"] for failure in failures) or f"what it signed is {state}")


def open_signer(settings: Settings) -> PhotoSigner | None:
    """What signs photos, if the settings name a certificate. Raises CredentialsWrong."""
    certificates, key = settings.c2pa_certificate_path, settings.c2pa_private_key_path
    if certificates is None or key is None:
        return None
    return PhotoSigner(_read("C2PA_CERTIFICATE_PATH", certificates), _read("C2PA_PRIVATE_KEY_PATH", key))


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsWrong(f"{setting}={path} cannot be read: {error.strerror}") from error


def _read_chain(pem: bytes) -> "list[x509.Certificate]":
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CredentialsWrong("C2PA_CERTIFICATE_PATH holds no certificates in PEM") from error


def _read_key(pem: bytes) -> "PrivateKeyTypes":
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        raise CredentialsWrong("C2PA_PRIVATE_KEY_PATH holds no private key in PEM without a password") from error


def _check_belonging(certificate: "x509.Certificate", key: "PrivateKeyTypes") -> None:
    if certificate.public_key() != key.public_key():
        raise CredentialsWrong("C2PA_PRIVATE_KEY_PATH is not the key of the first certificate in C2PA_CERTIFICATE_PATH")


def _check_dates(certificate: "x509.Certificate") -> datetime:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= datetime.now(UTC) < ends:
        raise CredentialsWrong(f"C2PA_CERTIFICATE_PATH is valid from {begins:%Y-%m-%d} until {ends:%Y-%m-%d} only")
    return ends


def _algorithm(key: "PrivateKeyTypes") -> str:
    """COSE's name of how such a key signs (C2PA 2.2, 13.2)."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if isinstance(key, ec.EllipticCurvePrivateKey):
        by_curve = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
        if key.curve.name in by_curve:
            return by_curve[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise CredentialsWrong("C2PA_PRIVATE_KEY_PATH is of a kind that photos cannot be signed with")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
