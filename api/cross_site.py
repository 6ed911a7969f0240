"""A browser sends our cookie along with whatever page asks it to: what changes something must come from our own."""

from urllib.parse import urlsplit

from fastapi import Request

from shared.errors import CrossSite
from shared.settings import Settings

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def refuse_cross_site(request: Request, settings: Settings) -> None:
    """Raises CrossSite for what a browser says to come from another site's page, unless it changes nothing.

    Browsers say so in `Sec-Fetch-Site` (to https addresses and to loopback) and in `Origin`; no page can write either.
    Who sends neither is no browser, and nobody can make it send a cookie that it does not want to send.
    """
    if request.method in _SAFE:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site not in ("same-origin", "none"):  # a sibling host is another site to us; `none` is the user's own hand
            raise CrossSite
        return
    origin = request.headers.get("origin")
    if origin is None:
        return
    # Behind a proxy the host that we see need not be the one that the browser knows.
    if urlsplit(origin).netloc not in {request.headers.get("host"), urlsplit(settings.public_url).netloc}:
        raise CrossSite
