"""A stand-in of the hub's API on loopback: repositories are folders, and every file that is fetched is recorded.

It answers what ``huggingface_hub`` asks when it reads, which is the revision of a repository, its list of files, and
the files; and when it makes a repository and a commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, hf_api

TOKEN = "hf_of_the_tests"
"""The token that may write."""


class Hub:
    """A running stand-in.

    Args:
        root: ``ORG/NAME`` below it are the repositories.

    Attributes:
        url: Of the API.
        fetched: Names of the files whose content was sent, in order.
        asked: Method and path of every request.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        self.asked: list[tuple[str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *values: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = [unquote(part) for part in urlsplit(request.path).path.strip("/").split("/")]
        self.asked.append((request.command, request.path))
        if request.command == "POST":
            self._write(request, parts, request.rfile.read(int(request.headers["Content-Length"])))
            return
        match parts:
            case ["api", "models", org, name] | ["api", "models", org, name, "revision", _]:
                self._repository(request, self.root / org / name)
            case [org, name, "resolve", _, *file]:
                self._file(request, self.root / org / name, "/".join(file))
            case _:
                _send(request, 404, b"", {})

    def _write(self, request: BaseHTTPRequestHandler, parts: list[str], body: bytes) -> None:
        """Make a repository, say that every file goes into the commit itself, and commit."""
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            _send(request, 403, b'{"error": "no right to write"}', {"X-Error-Message": "no right to write"})
            return
        match parts:
            case ["api", "validate-yaml"]:
                _json(request, 200, {"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                content = json.loads(body)
                folder = self.root / (content.get("organization") or "me") / content["name"].rpartition("/")[2]
                known = folder.exists()
                folder.mkdir(parents=True, exist_ok=True)
                _json(request, 409 if known else 200, {"url": f"{self.url}/{folder.relative_to(self.root)}"})
            case ["api", "models", _, _, "preupload", _]:
                files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
                _json(request, 200, {"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
            case ["api", "models", org, name, "commit", _]:
                self._commit(request, self.root / org / name, [json.loads(line) for line in body.splitlines()])
            case _:
                _send(request, 404, b"", {})

    def _commit(self, request: BaseHTTPRequestHandler, folder: Path, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, commit(folder)):
                _json(request, 412, {"error": "the branch has moved"})
                return
            if line["key"] == "file":
                path = folder / value["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(value["content"]))
            if line["key"] == "deletedFile":
                (folder / value["path"]).unlink()
        oid = commit(folder)
        url = f"{self.url}/{folder.parent.name}/{folder.name}/commit/{oid}"
        _json(request, 200, {"commitUrl": url, "commitOid": oid, "success": True})

    def _repository(self, request: BaseHTTPRequestHandler, folder: Path) -> None:
        if not folder.is_dir():
            _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        content = {
            "id": f"{folder.parent.name}/{folder.name}",
            "sha": commit(folder),
            "private": False,
            "tags": [],
            "downloads": 0,
            "siblings": [{"rfilename": name} for name in files],
        }
        _send(request, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, request: BaseHTTPRequestHandler, folder: Path, name: str) -> None:
        path = folder / name
        if not path.is_file():
            code = "EntryNotFound" if folder.is_dir() else "RepoNotFound"
            _send(request, 404, b"", {"X-Error-Code": code, "X-Repo-Commit": commit(folder)})
            return
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if request.command == "GET":
            self.fetched.append(name)
        _send(request, 200, content, {"ETag": etag, "X-Repo-Commit": commit(folder)})


def commit(folder: Path) -> str:
    """A revision: 40 hexadecimal digits that depend on the names and contents of a folder."""
    digest = hashlib.sha1(folder.name.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _send(request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


def _json(request: BaseHTTPRequestHandler, status: int, content: object) -> None:
    _send(request, status, json.dumps(content).encode(), {"Content-Type": "application/json"})


@contextmanager
def serving(root: Path, cache: Path) -> Iterator[Hub]:
    """A stand-in that ``huggingface_hub`` talks to in this process, with an empty cache of its own."""
    hub = Hub(root)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        with (
            patch.object(constants, "ENDPOINT", hub.url),
            patch.object(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template),
            patch.object(constants, "HF_HUB_CACHE", str(cache)),
            patch.object(constants, "HF_HUB_OFFLINE", False),
            patch.object(hf_api, "ENDPOINT", hub.url, create=True),
        ):
            yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
