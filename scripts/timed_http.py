"""HTTP in which everything has a time: also a server that sends a byte now and then is given up."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Iterator

PIECE = 2**20  # bytes that are read at once, at most


class Timed:
    """A connection whose headers must all be there in `timeout` seconds, not each byte of them."""

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
    """Not through a proxy that the environment names: servers are on this machine, or near it."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), HTTPHandler, HTTPSHandler)


def read_pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What has come, whenever something has. Raises IncompleteRead if more was promised."""
    while piece := answer.read1(PIECE):
        yield piece
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
