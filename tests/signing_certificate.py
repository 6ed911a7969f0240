"""A certificate authority of the tests' own, and certificates by it that may, or may not, sign photos."""

from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.content_credentials import PhotoSigner

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

NAME = "Photos of the tests"
AUTHORITY = "An authority of the tests"


class Authority:
    """Its root is in no list, so what it vouches for is valid and not trusted, unless a reader is told of `root`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._certificate(AUTHORITY, self._key, ca=True, purpose=None, days=30)

    def certify(
        self,
        key: PrivateKey,
        *,
        purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.EMAIL_PROTECTION,
        days: int = 30,
    ) -> bytes:
        """A chain in PEM, of one who may sign photos unless `purpose` is another; it ends in so many days from now."""
        return self._certificate(NAME, key, ca=False, purpose=purpose, days=days) + self.root

    def _certificate(
        self, name: str, key: PrivateKey, *, ca: bool, purpose: x509.ObjectIdentifier | None, days: int
    ) -> bytes:
        end = datetime.now(UTC) + timedelta(days=days)
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        draft = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(AUTHORITY))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=60))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if purpose is not None:
            draft = draft.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return draft.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def own_signer() -> PhotoSigner:
    key = ec.generate_private_key(ec.SECP256R1())
    return PhotoSigner(Authority().certify(key), pem(key))


def is_signed(body: bytes) -> bool:
    """Whether the JPEG has credentials, by whomever, and is what was signed."""
    with c2pa.Reader("image/jpeg", BytesIO(body)) as reader:
        return reader.get_validation_state() == "Valid"


def write_certificate(folder: Path, *, days: int = 30) -> dict[str, str]:
    """The settings, as environment variables, of a certificate written there."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificates, private_key = folder / "signer.pem", folder / "signer.key"
    certificates.write_bytes(Authority().certify(key, days=days))
    private_key.write_bytes(pem(key))
    return {"C2PA_CERTIFICATE_PATH": str(certificates), "C2PA_PRIVATE_KEY_PATH": str(private_key)}


def _name(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
