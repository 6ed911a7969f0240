"""`python -m api`: serve the API where the settings say."""

import sys

import uvicorn
from pydantic import ValidationError

from api.auth import require_loopback_in_development
from shared.settings import get_settings

# How long a stopping server waits for the answers it owes.
GRACE_SECONDS = 10


def main() -> None:
    try:
        settings = get_settings()
        require_loopback_in_development(settings, settings.api_host)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        sys.exit(f"api: the settings are wrong: {reasons}")
    except ValueError as error:
        sys.exit(f"api: {error}")
    uvicorn.run(
        "api.main:create_app",
        factory=True,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,  # ours is configured by create_app
        access_log=False,
        proxy_headers=True,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
