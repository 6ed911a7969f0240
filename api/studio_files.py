"""The page's files as they go over the wire: read and compressed once, under addresses that name what they hold."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from api.errors import PROBLEMS
from api.faces import PORTRAIT_MIN_SIDE_PX
from shared.settings import Settings

FOLDER = Path(__file__).parent / "studio"
PREFIX = "/studio/"
FIRST = "index.html"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
_ALREADY_SMALL = {".webp"}


@dataclass(frozen=True, slots=True)
class StudioFile:
    body: bytes
    gzipped: bytes | None  # None where compressing gains nothing
    content_type: str
    etag: str


class StudioFiles:
    """Every file of the page, and what only the server knows as one more module, `contract.js`.

    `version` names all of them together. The page asks for its parts under it, so a browser may keep them for ever and
    still never mixes two releases.
    """

    def __init__(self, settings: Settings) -> None:
        bodies = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in _files()}
        bodies["contract.js"] = _contract(settings)
        digest = hashlib.sha256()
        for name, body in sorted(bodies.items()):
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
        self.version = digest.hexdigest()[:12]
        bodies[FIRST] = bodies[FIRST].replace(PREFIX.encode(), f"{PREFIX}{self.version}/".encode())
        self._files: Mapping[str, StudioFile] = {name: _file(name, body) for name, body in bodies.items()}

    def first(self) -> StudioFile:
        return self._files[FIRST]

    def find(self, path: str) -> tuple[StudioFile, bool] | None:
        """The file under a path below `PREFIX`, and whether it will always be this one there."""
        version, _, name = path.partition("/")
        if version == self.version and name in self._files:
            return self._files[name], True
        # Without a version, or, while a release replaces another, under the other one's.
        found = self._files.get(path) or self._files.get(name)
        return (found, False) if found else None


def content_security_policy(picture_origin: str | None) -> str:
    """Nothing but our own files, and photos from the one other host that the storage sends browsers to, if it does."""
    pictures = " ".join(filter(None, ("'self'", "blob:", picture_origin)))
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {pictures}; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


def _files() -> list[Path]:
    return [path for path in FOLDER.rglob("*") if path.suffix in _TYPES]


def _file(name: str, body: bytes) -> StudioFile:
    suffix = Path(name).suffix
    return StudioFile(
        body=body,
        gzipped=None if suffix in _ALREADY_SMALL else gzip.compress(body, mtime=0),
        content_type=_TYPES[suffix],
        etag=f'"{hashlib.sha256(body).hexdigest()[:24]}"',
    )


def _contract(settings: Settings) -> bytes:
    site = settings.jwt_issuer if settings.jwt_issuer.startswith("https://") else None
    told = {
        "development": settings.auth_mode == "development",
        "site": site,
        "portrait": {
            "max_bytes": settings.upload_max_bytes,
            "max_pixels": settings.portrait_max_pixels,
            "min_side_px": PORTRAIT_MIN_SIDE_PX,
        },
        "problems": {code: {"ko": problem.ko, "en": problem.en} for code, problem in PROBLEMS.items()},
    }
    about = "/** What the server says of itself: how to sign in, what it takes, and its words for what it refuses. */"
    return f"{about}\nexport default {json.dumps(told, ensure_ascii=False, indent=2)};\n".encode()
