"""Malformed HTTP over raw sockets, as scanners, broken clients and attackers send it."""

import contextlib
import random
import socket
from collections import Counter
from collections.abc import Iterator

_BODY = b'{"inputs": "a quiet evening"}'
_JSON = b"Content-Type: application/json\r\n"
_METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"OPTIONS", b"BREW")
_PATHS = (b"/predict", b"/", b"/info", b"*", b"//", b"/..%2f..%2fetc/passwd", b"/%00", b"/a?\xff")
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"", b"http/1.1")
_HEADERS = (
    b"X-Request-ID: " + b"a" * 5000,
    b"X-Bundle-Id: \xff\xfe",
    b"X-Bundle-Id: " + b"a" * 9000,
    b"Authorization: Bearer \xe9",
    b"Origin: \xff",
    b"Origin: http://[",
    b"Host: \xff",
    b"Host: a\r\nHost: b",
    b"Cookie: " + b"a=b; " * 1000,
    b"Content-Type: application/json; charset=\xff",
    b"Content-Encoding: gzip",
    b"Accept: \x01",
    b"Expect: 100-continue",
    b"Expect: 200-ok",
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Connection: close, \xff",
    b"no colon",
    b": no name",
    b" folded",
    b"Space : before colon",
    b"X-Null: a\x00b",
    b"Range: bytes=0-1",
)
_LENGTHS = (
    b"Content-Length: 29",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 99999999999",
    b"Content-Length: " + b"9" * 30,
    b"Content-Length: -1",
    b"Content-Length: +29",
    b"Content-Length: 0x1d",
    b"Content-Length: 29\r\nContent-Length: 28",
    b"Content-Length: 29, 29",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 29",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: \x0bchunked",
)
_BODIES = (
    _BODY,
    b"",
    b"1d\r\n" + _BODY + b"\r\n0\r\n\r\n",
    b"zz\r\n" + _BODY + b"\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\na",
    b"1d;x=\xff\r\n" + _BODY + b"\r\n0\r\nTrailer: \xff\r\n\r\n",
    b"[" * 30_000,
    b'{"inputs": "\\ud800"}',
    b'{"inputs": ' + b'"' + b"\xff" * 40 + b'"}',
    b"\x1f\x8b\x08" + b"\x00" * 40,
    _BODY + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
)
_NO_HTTP = (
    b"",
    b"\r\n\r\n\r\n",
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /predict HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"SSH-2.0-scanner\r\n",
)


def raw_requests(count: int, *, seed: int = 0) -> Iterator[bytes]:
    """The bytes of `count` requests: no HTTP at all, cut off, or wrong in one to three parts."""
    chance = random.Random(seed)
    for number in range(count):
        if number % 10 == 0:
            yield chance.choice(_NO_HTTP)
            continue
        line = b"POST /predict HTTP/1.1"
        if chance.random() < 0.3:
            line = b" ".join(map(chance.choice, (_METHODS, _PATHS, _VERSIONS)))
        headers = [b"Host: localhost", _JSON.strip()]
        headers += chance.sample(_HEADERS, chance.randint(0, 2))
        headers += [chance.choice(_LENGTHS if chance.random() < 0.7 else _LENGTHS[:1])]
        chance.shuffle(headers)
        body = chance.choice(_BODIES) if chance.random() < 0.7 else _BODY
        request = line + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body
        yield request[: chance.randrange(len(request))] if chance.random() < 0.1 else request


def send_raw(port: int, requests: Iterator[bytes], *, timeout_s: float) -> Counter[bytes]:
    """Sends each request on a connection of its own and closes it; the statuses that came back.

    `b""` counts those without a response: closed by the service, or silent for `timeout_s`.
    """
    statuses: Counter[bytes] = Counter()
    for request in requests:
        response = b""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(timeout_s)
            client.sendall(request)
            response = client.recv(4096)
        is_http = response.startswith(b"HTTP/1.")
        statuses[response.split(b" ", 2)[1] if is_http else b""] += 1
    return statuses
