"""Each secret that signs people in can be exchanged without signing anybody out: both are believed for a while."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from shared.settings import Settings
from tests.api_client import serve
from tests.test_docs import PROJECT, spans, table

pytestmark = pytest.mark.anyio

OLD, NEW, STRANGE = ("old-secret-of-thirty-two-bytes-or-more", "new-secret-of-thirty-two-bytes-or-more",
                     "another-secret-of-thirty-two-bytes-or-more")  # fmt: skip


def production(settings: Settings, **secrets: str) -> Settings:
    return Settings(
        _env_file=None,
        **{**settings.model_dump(exclude=set(secrets)), "auth_mode": "jwt", **secrets},
    )


def token(settings: Settings, secret: str) -> str:
    claims = {"email": "couple@example.com", "iss": settings.jwt_issuer, "aud": settings.jwt_audience,
              "exp": datetime.now(UTC) + timedelta(minutes=10)}  # fmt: skip
    return jwt.encode(claims, secret, "HS256")


async def status(settings: Settings, **headers: str) -> int:
    async with AsyncExitStack() as stack:
        http = await serve(stack, settings)
        return (await http.get("/me", headers=headers)).status_code


async def cookie(settings: Settings, secret: str) -> str:
    async with AsyncExitStack() as stack:
        http = await serve(stack, settings)
        answer = await http.post("/session", headers={"Authorization": f"Bearer {token(settings, secret)}"})
        assert answer.status_code == 200
        return answer.headers["set-cookie"].partition(";")[0]


async def test_tokens_of_both_secrets_are_believed_until_the_old_one_is_taken_away(settings: Settings) -> None:
    rotating = production(settings, jwt_secret=NEW, jwt_previous_secret=OLD)
    for secret, believed in ((OLD, True), (NEW, True), (STRANGE, False)):
        header = f"Bearer {token(rotating, secret)}"
        assert await status(rotating, Authorization=header) == (200 if believed else 401)
    rotated = production(settings, jwt_secret=NEW)
    assert await status(rotated, Authorization=f"Bearer {token(rotated, OLD)}") == 401


@pytest.mark.parametrize(
    ("before", "rotating", "after"),
    [
        (
            {"jwt_secret": OLD},
            {"jwt_secret": NEW, "jwt_previous_secret": OLD},
            {"jwt_secret": NEW},
        ),
        (
            {"jwt_secret": STRANGE, "session_secret": OLD},
            {"jwt_secret": STRANGE, "session_secret": NEW, "session_previous_secret": OLD},
            {"jwt_secret": STRANGE, "session_secret": NEW},
        ),
        # The first SESSION_SECRET takes over from the one of the tokens.
        (
            {"jwt_secret": OLD},
            {"jwt_secret": OLD, "session_secret": NEW, "session_previous_secret": OLD},
            {"jwt_secret": OLD, "session_secret": NEW},
        ),
    ],
)
async def test_who_is_signed_in_stays_so_while_a_secret_is_rotated(
    settings: Settings, before: dict[str, str], rotating: dict[str, str], after: dict[str, str]
) -> None:
    old = await cookie(production(settings, **before), before["jwt_secret"])
    assert await status(production(settings, **rotating), Cookie=old) == 200
    assert await status(production(settings, **after), Cookie=old) == 401
    new = await cookie(production(settings, **rotating), rotating["jwt_secret"])
    assert await status(production(settings, **after), Cookie=new) == 200


def test_every_secret_has_its_way_to_be_rotated() -> None:
    told = {name for row in table(PROJECT / "docs/operations.md", "secret") for name in spans(row[0])}
    secrets = {name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    previous = {name for name in secrets if "PREVIOUS" in name}
    assert secrets - previous <= told


@pytest.mark.parametrize("name", ["jwt_previous_secret", "session_previous_secret"])
def test_a_previous_secret_must_be_one(settings: Settings, name: str) -> None:
    with pytest.raises(ValueError, match=name.upper()):
        production(settings, jwt_secret=NEW, **{name: "short"})
