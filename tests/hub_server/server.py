"""The server: a hub behind HTTP on loopback, in a thread, on a port of its own."""

from __future__ import annotations

import io
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.hub_server.faults import Fault
from tests.hub_server.hub import Hub
from tests.hub_server.messages import Answer, Request
from tests.hub_server.routes import answer as answer_of


class HubServer(Hub):
    """A running hub. As a context manager it starts and stops.

    `endpoint` (http://127.0.0.1:PORT) is what clients get as HF_ENDPOINT. Large files come from the same port by the
    name localhost, which is another origin for clients: they do not send their token there.

    Args:
        folder: Where the Xet store lies.
        xet: Whether Xet is spoken.
    """

    def __init__(self, folder: Path, *, xet: bool = True) -> None:
        super().__init__(folder, xet=xet)
        hub = self

        class BoundHandler(_Handler):
            """The handler of this server."""

            server_hub = hub

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self.storage = f"http://localhost:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets it meet its fault, and sends the answer."""

    server_hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one piece
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: object) -> None:
        """The log is `Hub.log`."""

    def _handle(self) -> None:
        hub = self.server_hub
        request = self._request()
        entry = hub.log.add(request)
        fault = hub.faults.meet(request)
        if fault is not None:
            entry.fault = fault.kind
        if fault is not None and fault.kind == "cut":
            return self._reset()
        answer = self._answer(hub, request, fault)
        if fault is not None and fault.kind == "lose":
            return self._reset()
        entry.status = answer.status
        return self._send(request, answer, cut_short=fault is not None and fault.kind == "truncate")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _answer(self, hub: Hub, request: Request, fault: Fault | None) -> Answer:
        if fault is not None and fault.kind == "status":
            return Answer(fault.status, fault.body, {"Content-Type": "application/json", **fault.headers})
        if fault is not None and fault.kind == "delay":
            time.sleep(fault.seconds)
        try:
            return _ranged(request, answer_of(hub, request))
        except Exception as error:  # a fault of this server: the test must see it, not hang
            return Answer.of({"error": f"the test server failed: {type(error).__name__}: {error}"}, 500)

    def _request(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): text for name, text in self.headers.items()}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunks()
        else:
            body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(self.command, path, query, headers, body, headers.get("host", ""))

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, request: Request, answer: Answer, *, cut_short: bool) -> None:
        body = b"" if request.method == "HEAD" else answer.body
        self.send_response(answer.status)
        for name, text in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut_short else body)
        self.wfile.flush()
        if cut_short:
            # Without a reset: what was sent is to arrive.
            self.close_connection = True

    def _reset(self) -> None:
        """Close the connection so that the client sees a reset, not an orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for end in (self.rfile, self.wfile, self.connection):
            end.close()
        self.wfile = io.BytesIO()  # the base class flushes it once more


def _ranged(request: Request, answer: Answer) -> Answer:
    """The part of a file that was asked for, where the answer allows it."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "").strip())
    if answer.status != 200 or "Accept-Ranges" not in answer.headers or asked is None or asked[0] == "bytes=-":
        return answer
    size = len(answer.body)
    if asked[1]:
        start, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
    else:
        start, end = max(size - int(asked[2]), 0), size - 1
    if start >= size or start > end:
        return Answer(416, headers={**answer.headers, "Content-Range": f"bytes */{size}"})
    part = answer.body[start : end + 1]
    return Answer(206, part, {**answer.headers, "Content-Range": f"bytes {start}-{end}/{size}"})
