"""Who may ask the server for what: one page, in one browser, on this machine.

Any page on the web can send requests to 127.0.0.1, and by DNS rebinding (Jackson et al. 2007, "Protecting Browsers
from DNS Rebinding Attacks") even under a name of its own. So the Host is checked first; then where a request comes
from; then the token, which only who was given the printed address knows.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus

BODY = 1 << 20  # bytes of a request, at most
TOKEN = "X-Token"
# What a page may do and load; what it makes of text can never become markup (trusted types).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types "
    "'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RefusedError(Exception):
    """A request that is not answered, and why, in a line."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Guard:
    """Checks the headers of requests to `host`, which is the address and the port."""

    host: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def check_sender(self, headers: Message) -> None:
        """Raise RefusedError unless the request was sent to this very server, by its own page or from outside any."""
        hosts = headers.get_all("Host") or []
        if hosts != [self.host]:
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, "this is not the host that was asked for")
        if any(origin != f"http://{self.host}" for origin in headers.get_all("Origin") or []):
            raise RefusedError(HTTPStatus.FORBIDDEN, "another site's page may not ask here")
        if any(site not in ("same-origin", "none") for site in headers.get_all("Sec-Fetch-Site") or []):
            raise RefusedError(HTTPStatus.FORBIDDEN, "another site's page may not ask here")

    def check_post(self, headers: Message) -> int:
        """The length of the body that is to be read; raises RefusedError unless it is JSON, and the token is right."""
        given = headers.get_all(TOKEN) or []
        right = hmac.compare_digest("".join(given).encode("utf-8", "replace"), self.token.encode())
        if len(given) != 1 or not right:
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "the token is missing or wrong; open the address that the program printed"
            )
        if headers.get_content_type() != "application/json" or headers["Content-Type"] is None:
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
        lengths = headers.get_all("Content-Length") or []
        if headers["Transfer-Encoding"] is not None or len(lengths) != 1:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the length of the body must be said")
        if not (lengths[0].isascii() and lengths[0].isdigit()):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the length of the body is no number")
        if len(lengths[0]) > 9 or int(lengths[0]) > BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {BODY:,} bytes")
        return int(lengths[0])
