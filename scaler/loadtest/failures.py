"""What can go wrong with a request, told apart, each in words for the report."""

import errno
import socket
import ssl
from enum import StrEnum
from typing import Final


class Failure(StrEnum):
    """Why a request counts as an error. The value is what the report says."""

    DNS = "host not found"
    REFUSED = "connection refused"
    UNREACHABLE = "host not reachable"
    CONNECT_TIMEOUT = "no connection in time"
    TLS = "TLS failed"
    RESET = "connection reset, or closed before an answer"
    FIRST_BYTE_TIMEOUT = "no first byte in time"
    BODY_TIMEOUT = "answer not whole in time"
    INCOMPLETE = "closed in the middle of the answer"
    MALFORMED = "answer is not HTTP/1.1"
    WRONG_STATUS = "wrong status"
    FAILED_CHECK = "text not found in the body"
    OUT_OF_SOCKETS = "this tester ran out of ports or files"
    NOT_SENT = "not sent: too many were under way"
    CUT_OFF = "no answer yet when the test ended"


OURS: Final = frozenset({Failure.OUT_OF_SOCKETS, Failure.NOT_SENT})  # the server may be innocent
_OUT_OF_SOCKETS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})


def of_connecting(error: OSError) -> Failure:
    """What an error while connecting means."""
    if isinstance(error, TimeoutError):
        return Failure.CONNECT_TIMEOUT
    if isinstance(error, socket.gaierror):
        return Failure.DNS
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return Failure.TLS
    if isinstance(error, ConnectionRefusedError):
        return Failure.REFUSED
    if isinstance(error, ConnectionError):
        return Failure.RESET
    return Failure.OUT_OF_SOCKETS if error.errno in _OUT_OF_SOCKETS else Failure.UNREACHABLE
