"""Connections that go to public addresses only: an address in a setting must not become a way into our own network.

The name is looked up once, every address it has is judged, and the connection goes to one that was judged: asking
again for the connection would let the name's owner answer differently (DNS rebinding). Certificate and Host stay
the name's, because only the connection below them is told the address.
"""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpcore
from anyio import to_thread

_UNICAST = IPv6Network("2000::/3")  # RFC 4291, all that is given out; Python calls some addresses beyond it global
_SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: how a network without IPv4 reaches the IPv4 address in the last bits


class NotPublic(httpcore.ConnectError):
    """The name leads to an address that the world cannot reach."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is one host's address in the public internet, through whatever form it is written in."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and address in _UNICAST and address not in _SIX_TO_FOUR


class PublicAddresses(httpcore.AsyncNetworkBackend):
    """httpcore's way to the network, with the check in it. `private_too` lets every address pass."""

    def __init__(self, *, private_too: bool) -> None:
        self._private_too = private_too
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the form is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises NotPublic if any of the name's addresses is not public, httpcore.ConnectError if none answers."""
        lost: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._addresses(host, port):
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                lost = error
        raise lost

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the form is httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise NotPublic("a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[IPv4Address | IPv6Address]:
        def look_up() -> list[str]:
            return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

        try:
            # A look-up cannot be stopped; whoever has no more time for it leaves it behind.
            found = await to_thread.run_sync(look_up, abandon_on_cancel=True)
        except (OSError, UnicodeError) as error:  # the second for a name that cannot be one
            raise httpcore.ConnectError(f"{host} cannot be looked up: {error}") from error
        addresses = [ip_address(text) for text in dict.fromkeys(found)]
        if not self._private_too and not all(is_public(address) for address in addresses):
            raise NotPublic(f"{host} leads to an address that is not public")
        return addresses
