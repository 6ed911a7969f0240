"""What a user agrees to before their portrait is taken: the text, as data, and the version that names exactly it.

The text names the times that the settings give. Its version holds a hash over both languages, so it changes with
every word and every time, and a job's row tells for ever which text its user agreed to.
"""

from dataclasses import dataclass
from hashlib import sha256

from shared.errors import ConsentRequired
from shared.settings import Settings

# When the words below were last written.
WRITTEN = "2026-11-24"
LANGUAGES = ("ko", "en")

_KO = """얼굴 사진의 수집과 이용에 동의합니다.
- 목적: 올린 사진 한 장으로 웨딩 사진 네 장을 만듭니다. 다른 목적에는 쓰지 않으며, 누구인지 알아보는 데 쓰지 않습니다.
- 항목: 얼굴이 담긴 사진 한 장, 고른 스타일과 역할.
- 처리: 얼굴이 한 명인지 확인하고 사진을 만드는 동안 국외의 AI 서비스에 사진이 전달될 수 있습니다.
- 보관: 올린 사진은 작업이 끝나고 {portrait_ko} 뒤, 만들어진 사진은 {photos_ko} 뒤에 삭제됩니다. \
그전에도 언제든 직접 삭제할 수 있습니다.
- 결과: 만들어진 사진은 AI가 만든 것이며, 그렇게 표시됩니다.
- 거부: 동의하지 않을 수 있으며, 그러면 사진을 만들 수 없습니다.
- 확인: 본인의 사진이거나 사진 속 사람의 허락을 받았습니다."""

_EN = """I agree that my portrait is taken and used.
- For: making four wedding photos of the one portrait I upload. \
It is used for nothing else, and never to find out who I am.
- What: one photo with a face, the style and the role I choose.
- How: it may be sent to AI services in other countries to check that it shows one face, and while the photos are made.
- How long: the portrait is deleted {portrait_en} after the job ends, the photos {photos_en} after it. \
I can delete them sooner at any time.
- What comes of it: the photos are made by AI, and are marked so.
- I may say no; then no photos can be made.
- The portrait shows me, or whoever it shows allows me to use it."""


@dataclass(frozen=True, slots=True)
class ConsentText:
    version: str
    ko: str
    en: str

    def in_language(self, language: str) -> str:
        return self.ko if language == "ko" else self.en


@dataclass(frozen=True, slots=True)
class Consent:
    """A user's word: which version, and in which language they read it."""

    version: str
    language: str


def consent_text(settings: Settings) -> ConsentText:
    """The text that is agreed to now."""
    portrait, photos = settings.portrait_retention_seconds, settings.photo_retention_days * 86_400
    ko = _KO.format(portrait_ko=_time(portrait, "ko"), photos_ko=_time(photos, "ko"))
    en = _EN.format(portrait_en=_time(portrait, "en"), photos_en=_time(photos, "en"))
    return ConsentText(f"{WRITTEN}.{sha256((ko + en).encode()).hexdigest()[:8]}", ko, en)


def given(version: str | None, language: str, settings: Settings) -> Consent | None:
    """The consent of a request that names this version; None where it names none and need not.

    Raises:
        ConsentRequired: it names another version than today's, or none and must.
    """
    current = consent_text(settings).version
    if version is None and not settings.consent_required:
        return None
    if version != current:
        raise ConsentRequired(version=current)
    return Consent(version, language)


def _time(seconds: float, language: str) -> str:
    for unit, ko, en in ((86_400, "일", "day"), (3600, "시간", "hour"), (60, "분", "minute"), (1, "초", "second")):
        if seconds >= unit:
            count = f"{seconds / unit:g}"
            return f"{count}{ko}" if language == "ko" else f"{count} {en}{'' if count == '1' else 's'}"
    return "바로" if language == "ko" else "no time"
