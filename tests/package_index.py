"""A package index on loopback, in the JSON form of the simple API (PEP 691), with what tests say of its files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from nbgpu_protocol.snapshot import normalised_name

_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass
class PackageIndex:
    """What it has. Files without content can be planned with, and not installed."""

    _files: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    _contents: dict[str, bytes] = field(default_factory=dict)
    _without_head: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    """The paths that were asked for, with the method before them."""

    def add(self, wheel: Path, *, yanked: str = "", says_size: bool = True, answers_head: bool = True) -> None:
        """Adds a wheel.

        Args:
            yanked: Why it was withdrawn.
            says_size: Whether the index names its size, as not all do.
            answers_head: Whether the server answers who asks for the size alone.
        """
        content = wheel.read_bytes()
        entry: dict[str, object] = {
            "filename": wheel.name,
            "url": f"/files/{wheel.name}",
            "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
        }
        if says_size:
            entry["size"] = len(content)
        if yanked:
            entry["yanked"] = yanked
        self._files.setdefault(normalised_name(wheel.name.partition("-")[0]), []).append(entry)
        self._contents[f"/files/{wheel.name}"] = content
        if not answers_head:
            self._without_head.add(f"/files/{wheel.name}")

    def add_recorded(self, name: str, version: str, *, tag: str, requires: Sequence[str], size_bytes: int) -> None:
        """Adds what is known of a wheel that is not here."""
        file = f"{name.replace('-', '_')}-{version}-{tag}.whl"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {each}" for each in requires]
        metadata = "\n".join([*lines, "", ""]).encode()
        digest = hashlib.sha256(metadata).hexdigest()
        self._contents[f"/files/{file}.metadata"] = metadata
        self._files.setdefault(normalised_name(name), []).append(
            {
                "filename": file,
                "url": f"/files/{file}",
                "hashes": {"sha256": hashlib.sha256(file.encode()).hexdigest()},  # by which uv knows the file
                "size": size_bytes,
                "core-metadata": {"sha256": digest},
            }
        )

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serves it; yields its address, for `UV_DEFAULT_INDEX`."""
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(self.path)
                index.asked.append(f"{self.command} {path}")
                content, kind = index._contents.get(path), "application/octet-stream"
                if self.command == "HEAD" and path in index._without_head:
                    content = None
                if path.startswith("/simple/"):
                    files = index._files.get(path.removeprefix("/simple/").strip("/"))
                    name = path.removeprefix("/simple/").strip("/")
                    page = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
                    content, kind = (json.dumps(page).encode() if files else None), _JSON
                self.send_response(200 if content is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content or b"")

            do_HEAD = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                """Says nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # uv asks for fifty pages at once

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
