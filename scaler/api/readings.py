"""What this pod tells the scalers in the other pods of its application: its last few seconds."""

import hmac

from aiohttp import web

from scaler.clients.peers import Peers
from scaler.clients.web import secret
from scaler.errors import PermanentError


def application(peers: Peers) -> web.Application:
    """One page, for those who have the token. The token is read each time: it may be renewed."""

    async def readings(request: web.Request) -> web.Response:
        try:
            expected = secret(peers.rules.token_file)
        except PermanentError:
            return web.Response(status=503, text="token_file of this pod cannot be read\n")
        if not _is_known(request.headers.get("Authorization", ""), expected):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return web.Response(body=peers.told(), content_type="application/json")

    made = web.Application(client_max_size=1)  # nobody has anything to send
    made.add_routes([web.get("/readings", readings, allow_head=False)])
    return made


def _is_known(given: str, expected: str) -> bool:
    """In a time that says nothing about how much of it is right."""
    sent = given.encode(errors="surrogateescape")
    return hmac.compare_digest(sent, f"Bearer {expected}".encode())
