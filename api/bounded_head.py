"""A request's headers, read in a bounded way: uvicorn over httptools keeps all that come, whoever sends them."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Proxies commonly let 8 to 32 kB pass. What is made of a header (languages, cookies, tokens) takes a second for 2 MB.
HEADERS_MAX_BYTES = 64 * 1024


class HeadersTooLarge(Exception):
    """All headers of a request together went over `HEADERS_MAX_BYTES`."""


class BoundedHead(HttpToolsProtocol):
    """uvicorn's protocol that answers 400 to too many headers, and hangs up on one that does not end."""

    _headers_bytes = 0
    _kept_bytes = 0  # came and belong to something that is not whole yet
    _heard = False

    def data_received(self, data: bytes) -> None:
        self._heard = False
        super().data_received(data)
        self._kept_bytes = 0 if self._heard else self._kept_bytes + len(data)
        if self._kept_bytes > HEADERS_MAX_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._headers_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of the end of a chunked body, too. What it raises becomes the parser's own complaint."""
        self._heard = True
        self._headers_bytes += len(name) + len(value)
        if self._headers_bytes > HEADERS_MAX_BYTES:
            raise HeadersTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._heard = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._heard = True
        super().on_body(body)
