"""A stand-in of the hub's API on loopback: repositories are folders, and every file that is fetched is recorded.

It answers what ``huggingface_hub`` asks when it reads: the revision of a repository, its list of files, and the files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import huggingface_hub
from huggingface_hub import constants


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

            def log_message(self, format: str, *values: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = [unquote(part) for part in urlsplit(request.path).path.strip("/").split("/")]
        self.asked.append((request.command, request.path))
        match parts:
            case ["api", "models", org, name] | ["api", "models", org, name, "revision", _]:
                self._repository(request, self.root / org / name)
            case [org, name, "resolve", _, *file]:
                self._file(request, self.root / org / name, "/".join(file))
            case _:
                _send(request, 404, b"", {})

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
            patch.object(huggingface_hub.hf_api, "ENDPOINT", hub.url, create=True),
        ):
            yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
