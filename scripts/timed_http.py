"""HTTP with time limits, so that a server that sends single bytes slowly is given up, too."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Iterator

PIECE = 2**20  # the most bytes that are read at once


class Timed:
    """A connection whose headers must all arrive within `timeout` seconds.

    Python's own timeout is for each read.
    """

    sock: socket.socket
    timeout: float

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):  # it is closed already
                self.sock.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(self.timeout, cut)
        watch.daemon = True
        watch.start()
        try:
            answer = super().getresponse()  # pyright: ignore
        except (OSError, http.client.HTTPException):
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            watch.cancel()
        if late.is_set():
            raise TimeoutError
        return answer


class TimedHTTP(Timed, http.client.HTTPConnection):
    pass


class TimedHTTPS(Timed, http.client.HTTPSConnection):
    pass


class HTTPHandler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(TimedHTTP, request)


class HTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(TimedHTTPS, request, context=self._context)


def timed_opener() -> urllib.request.OpenerDirector:
    """Return an opener that ignores proxies in the environment, as servers are here or nearby."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), HTTPHandler, HTTPSHandler)


def read_pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the bytes as they come. Raise IncompleteRead if the server announced more."""
    while piece := answer.read1(PIECE):
        yield piece
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
