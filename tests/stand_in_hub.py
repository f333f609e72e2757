"""A stand-in on this machine for the Hugging Face hub and for Kaggle, which serves folders and notes what was asked."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "5" * 40
LARGE = (".safetensors", ".h5", ".parquet")
"""Endings of files that the hub keeps apart, named by the hash of their bytes."""


@dataclass
class StandInHub:
    """Serves `repositories` from a port of its own between `with` and the end of its block.

    Attributes:
        repositories: Name -> folder: owner/name of a network or data set of the hub, owner/model/variation of Kaggle,
            whatever the version.
        refused: Name -> status and the error's code: (403, "GatedRepo"), (401, "GatedRepo").
        cut: Names of files whose bytes break off half-way through what was asked for.
        asked: Of every request for a file: its method and the file's name, in order.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self
        handler = type("Handler", (_Handler,), {"hub": hub})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fetched(self) -> list[str]:
        """Files whose bytes were asked for, each once."""
        return sorted({name for method, name in self.asked if method != "HEAD"})


class _Handler(BaseHTTPRequestHandler):
    hub: StandInHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """Kaggle's way to ask for a file, and the hub's to ask what some are."""
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/.*", unquote(urlsplit(self.path).path)):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            names = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            if folder := self._folder(found[1]):
                self._send_json([_entry(folder / one, one) for one in names if (folder / one).exists()])
            return
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = "/".join(str(wanted[key]) for key in ("ownerSlug", "modelSlug", "instanceSlug"))
        folder = self._folder(name)
        if folder and (folder / wanted["path"]).is_file():  # the bytes lie elsewhere
            self._send_json({}, 302, {"Location": f"{self.hub.address}/kaggle/{name}/{wanted['path']}"})
        elif folder:
            self._send_json({"code": 404, "message": "no such file"}, 404)

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/kaggle/"):
            name, _, file = path.removeprefix("/kaggle/").rpartition("/")
            self._send_file(self.hub.repositories[name] / file, {})
        elif found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+(/.*)?)?", path):
            if folder := self._folder(found[1]):
                inside = folder / (found[3] or "").strip("/")
                files = sorted(one for one in inside.rglob("*") if one.is_file() or found[2] == "tree")
                names = [one.relative_to(folder).as_posix() for one in files]
                about = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                entries = [_entry(one, name) for one, name in zip(files, names, strict=True)]
                self._send_json(entries if found[2] == "tree" else about)
        elif found := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            folder = self._folder(found[1])
            if folder and not (folder / found[2]).is_file():
                self._send_json({}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            elif folder:
                entry = _entry(folder / found[2], found[2])
                digest = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
                linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(entry["size"])}
                self._send_file(folder / found[2], {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', **linked})
        else:
            self._send_json({"error": "nothing here"}, 404)

    def _folder(self, name: str) -> Path | None:
        """The folder of a repository; or an answer is sent that refuses it."""
        if name in self.hub.refused:
            status, code = self.hub.refused[name]
            self._send_json({"error": code, "code": status, "message": code}, status, {"X-Error-Code": code})
            return None
        if name not in self.hub.repositories:
            self._send_json(
                {"error": "Repository not found", "code": 404, "message": "not found"},
                404,
                {"X-Error-Code": "RepoNotFound"},
            )
            return None
        return self.hub.repositories[name]

    def _send_file(self, file: Path, headers: dict[str, str]) -> None:
        self.hub.asked.append((self.command, file.name))
        data = file.read_bytes()
        start = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range") or "")
        part = data[int(start[1]) :] if start else data
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start[1]}-{len(data) - 1}/{len(data)}")
        more = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        for key, value in {**headers, **more, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            whole = file.name not in self.hub.cut
            self.wfile.write(part if whole else part[: len(part) // 2])
            self.close_connection = not whole

    def _send_json(self, answer: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def _entry(file: Path, name: str) -> dict:
    """A file as the hub lists it: with the hash that git gives it, or of a large one with that of its bytes."""
    if file.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
    data = file.read_bytes()
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    entry = {"type": "file", "path": name, "size": len(data), "oid": git}
    if file.suffix in LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
