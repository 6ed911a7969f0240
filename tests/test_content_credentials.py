"""Content Credentials: signed into the photo, readable by anybody, about nobody; and what a wrong certificate does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image
from pydantic import ValidationError

from cli.examination import examine
from cli.examinations import EXAMINATIONS
from shared.content_credentials import CredentialsWrong, NotSigned, PhotoSigner, open_signer
from shared.photo_file import COMPOSED, MADE_BY_AI, prepare_photo
from shared.settings import Settings
from tests import photos
from tests.signing_certificate import NAME, Authority, PrivateKey, pem, write_certificate

KINDS: dict[str, Callable[[], PrivateKey]] = {
    "Es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ps256": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def signer(authority: Authority) -> PhotoSigner:
    key = KINDS["Es256"]()
    return PhotoSigner(authority.certify(key), pem(key))


def read(body: bytes, trusted: bytes | None = None) -> tuple[str | None, dict[str, Any]]:
    """What a viewer finds: the state of the credentials, and all that they say."""
    settings = {"trust": {"trust_anchors": trusted.decode()}, "verify": {"verify_trust": True}} if trusted else {}
    context = c2pa.Context(settings=c2pa.Settings.from_dict(settings))
    with c2pa.Reader("image/jpeg", BytesIO(body), context=context) as reader:
        return reader.get_validation_state(), json.loads(reader.json())


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_photo_proves_how_it_was_made(authority: Authority, kind: str) -> None:
    key = KINDS[kind]()
    signer = PhotoSigner(authority.certify(key), pem(key))
    for made_by_ai, source_type in ((True, MADE_BY_AI), (False, COMPOSED)):
        file = prepare_photo(photos.one_face(), made_by_ai=made_by_ai, signer=signer)
        assert file.sha256 == sha256(file.body).hexdigest()
        assert read(file.body)[0] == "Valid"
        state, told = read(file.body, trusted=authority.root)
        assert state == "Trusted"
        manifest = told["manifests"][told["active_manifest"]]
        assert manifest["signature_info"]["alg"] == kind
        assert manifest["signature_info"]["common_name"] == NAME
        actions = [found["data"]["actions"] for found in manifest["assertions"] if "actions" in found["label"]]
        assert actions == [
            [
                {
                    "action": "c2pa.created",
                    "digitalSourceType": source_type,
                    "softwareAgent": {"name": "Cuggu photos"},
                }
            ]
        ]


def test_signing_changes_no_pixel_and_keeps_the_label(signer: PhotoSigner) -> None:
    plain = prepare_photo(photos.one_face(), made_by_ai=True)
    signed = prepare_photo(photos.one_face(), made_by_ai=True, signer=signer)
    with Image.open(BytesIO(plain.body)) as before, Image.open(BytesIO(signed.body)) as after:
        assert before.tobytes() == after.tobytes()
        assert before.info["xmp"] == after.info["xmp"]
    assert signed.thumbnail == plain.thumbnail
    assert 0 < len(signed.body) - len(plain.body) < 8_000


def test_it_says_nothing_about_anybody(signer: PhotoSigner) -> None:
    told = json.dumps(read(prepare_photo(photos.rotated_with_gps(6), made_by_ai=True, signer=signer).body)[1])
    assert photos.CAMERA not in told
    _, manifests = read(prepare_photo(photos.one_face(), made_by_ai=True, signer=signer).body)
    (manifest,) = manifests["manifests"].values()
    assert set(manifest) == {
        "claim_generator_info",
        "claim_version",
        "instance_id",
        "assertions",
        "signature_info",
        "label",
    }


def test_a_changed_photo_is_known(signer: PhotoSigner) -> None:
    body = bytearray(prepare_photo(photos.one_face(), made_by_ai=True, signer=signer).body)
    body[-100] ^= 1
    assert read(bytes(body))[0] == "Invalid"


def test_many_threads_sign_with_one_signer(signer: PhotoSigner) -> None:
    plain = prepare_photo(photos.one_face(), made_by_ai=True).body
    with ThreadPoolExecutor(8) as threads:
        signed = set(threads.map(lambda _: signer.sign(plain, MADE_BY_AI), range(40)))
    assert len(signed) == 40  # each has an id of its own
    assert {read(body)[0] for body in signed} == {"Valid"}


def test_what_is_no_jpeg_is_not_signed(signer: PhotoSigner) -> None:
    with pytest.raises(NotSigned):
        signer.sign(b"no picture", MADE_BY_AI)


def test_a_wrong_certificate_is_told_in_words(authority: Authority) -> None:
    key, other = KINDS["Es256"](), KINDS["Es256"]()
    good = authority.certify(key)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    odd = dsa.generate_private_key(1024)
    odd_chain = authority.certify(odd)  # type: ignore[arg-type]
    wrong = {
        "holds no certificates in PEM": (b"rubbish", pem(key)),
        "holds no private key in PEM without a password": (good, b"rubbish"),
        "without a password": (good, locked),
        "is not the key of the first certificate": (good, pem(other)),
        "until": (authority.certify(key, days=-1), pem(key)),
        "is valid from": (authority.certify(key, days=90), pem(key)),
        "is of a kind that photos cannot be signed with": (odd_chain, pem(odd)),  # type: ignore[arg-type]
        "cannot sign photos": (authority.certify(key, purpose=ExtendedKeyUsageOID.SERVER_AUTH), pem(key)),
    }
    for words, (certificates, private_key) in wrong.items():
        with pytest.raises(CredentialsWrong, match=words) as told:
            PhotoSigner(certificates, private_key)
        assert "\n" not in str(told.value)
        assert "PRIVATE KEY-" not in str(told.value)


def test_certificate_and_key_are_set_together(clean_environment: None, offline_settings: Settings) -> None:
    kept = offline_settings.model_dump(exclude_unset=True)
    with pytest.raises(ValidationError, match="need each other"):
        Settings(_env_file=None, **kept, c2pa_certificate_path=Path("/signer.pem"))
    assert open_signer(offline_settings) is None
    missing = {"c2pa_certificate_path": Path("/no/signer.pem"), "c2pa_private_key_path": Path("/no/signer.key")}
    with pytest.raises(CredentialsWrong, match=r"C2PA_CERTIFICATE_PATH=/no/signer\.pem cannot be read: No such file"):
        open_signer(offline_settings.model_copy(update=missing))


def test_the_library_is_loaded_by_those_alone_who_sign(offline_settings: Settings) -> None:
    script = "import sys, worker.generation, shared.content_credentials; sys.exit('c2pa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_doctor_signs_a_picture(offline_settings: Settings, tmp_path: Path) -> None:
    parts = {"labels": EXAMINATIONS["labels"]}

    def doctor(**env: str) -> Any:
        update = {name.lower(): Path(path) for name, path in env.items()}
        return examine(offline_settings.model_copy(update=update), parts, ())[0]

    assert (doctor().ok, doctor().configured) == (True, "none")
    good = doctor(**write_certificate(tmp_path))
    assert (good.ok, NAME in good.says, "valid until" in good.says) == (True, True, True)
    late = doctor(**write_certificate(tmp_path, days=-1))
    assert (late.ok, "only" in late.says) == (False, True)


def test_a_wrong_certificate_ends_the_worker_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "DATA_DIR": str(settings.data_dir),
        **write_certificate(tmp_path, days=-1),
    }
    command = [sys.executable, "-m", "worker"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "worker: C2PA_CERTIFICATE_PATH is valid from" in ended.stderr
