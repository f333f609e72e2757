"""Stands in for Google Cloud Storage on this machine: lists and gives what a test puts into it, by the JSON API."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class GoogleStandIn(ThreadingHTTPServer):
    """A server; `objects` holds bucket/name -> bytes."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def facts(self, place: str) -> dict[str, str]:
        """What the API says of an object."""
        bucket, _, name = place.partition("/")
        digest = hashlib.md5(self.objects[place]).digest()
        facts = {"kind": "storage#object", "name": name, "bucket": bucket, "size": str(len(self.objects[place]))}
        generation = str(int.from_bytes(digest[:6]))
        return {**facts, "md5Hash": base64.b64encode(digest).decode(), "etag": generation, "generation": generation}


class _Handler(BaseHTTPRequestHandler):
    server: GoogleStandIn

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        bucket, _, name = parts.path.partition("/b/")[2].partition("/o")
        place = f"{bucket}/{unquote(name.removeprefix('/'))}"
        if not name.strip("/"):
            below = sorted(one for one in self.server.objects if one.startswith(place + asked.get("prefix", "")))
            self._answer(200, {"kind": "storage#objects", "items": [self.server.facts(one) for one in below]})
        elif place not in self.server.objects:
            self._answer(404, {"error": {"code": 404, "message": "not found"}})
        else:
            media = asked.get("alt") == "media"
            self._answer(200, self.server.objects[place] if media else self.server.facts(place))

    def _answer(self, code: int, said: dict | bytes) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(said, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def google_stand_in() -> Iterator[GoogleStandIn]:
    """The server while it runs."""
    with GoogleStandIn() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
