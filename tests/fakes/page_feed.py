"""Plays the Jupyter server's part towards a page in a browser: states and samples over the WebSocket, and REST.

The page is the real one; only what it asks under `/nbgpu/api` is answered here, so that a test decides what every
pool, session and GPU is like.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page, Route, WebSocketRoute

Json = dict[str, Any]
GIB = 2**30
API = re.compile(r"/nbgpu/api/(?!events)")
EVENTS = re.compile(r"/nbgpu/api/events")
REPLAY = re.compile(r"/nbgpu/api/notebooks/[^/]+/replay")


def accelerator(index: int, type_: str = "H100", **fields: Any) -> Json:
    return {
        "id": f"{type_}-{index}",
        "index": index,
        "type": type_,
        "product_name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 80 * 10**9,
        "simulated": False,
        "shared": False,
        "session_id": None,
        "mig_parent_id": None,
    } | fields


def offer(type_: str, total: int, free: int, **fields: Any) -> Json:
    return {
        "type": type_,
        "memory_bytes": 80 * 10**9,
        "total": total,
        "free": free,
        "queued": 0,
        "simulated": False,
        "shared": False,
        "node_hostname": "lab-gpu-03",
        "price_per_hour": None,
        "currency": "USD",
    } | fields


def execution(count: int, request_id: str, **fields: Any) -> Json:
    return {
        "execution_count": count,
        "request_id": request_id,
        "started_unix_s": time.time() - 92,
        "ended_unix_s": None,
        "succeeded": None,
        "accelerators": "H100 ×8",
        "simulated": False,
        "mean_utilisation_percent": None,
        "peak_memory_bytes": None,
        "cost": None,
        "currency": "USD",
    } | fields


def session(id_: str, notebook_id: str | None, name: str | None, **fields: Any) -> Json:
    now = time.time()
    return {
        "id": id_,
        "notebook_id": notebook_id,
        "notebook_name": name,
        "spec_text": "H100x8",
        "phase": "ready",
        "queue_position": None,
        "queue_length": None,
        "detail": "",
        "kernel_state": "idle",
        "kernel_exit": None,
        "kernel_generation": 1,
        "python_version": "3.11.2",
        "environment": {"package_count": 214, "own": True, "done": None, "total": None, "current": None},
        "difference": None,
        "variables": None,
        "accelerators": [accelerator(index) for index in range(8)],
        "node_hostname": "lab-gpu-03",
        "executing": None,
        "executions": 3,
        "last_executions": [],
        "accelerator_seconds": 744.0,
        "cost": 0.43,
        "cost_per_hour": 16.8,
        "currency": "USD",
        "idle_close_s": 3600.0,
        "idle_since_unix_s": now,
        "closes_unix_s": now + 3600,
        "closing_warn_unix_s": now + 3000,
        "closing_cause": "idle",
        "expires_unix_s": None,
        "attached_unix_s": now - 600,
        "created_unix_s": now - 600,
        "last_active_unix_s": now,
    } | fields


def request(id_: str, notebook_id: str, **fields: Any) -> Json:
    return {
        "request_id": id_,
        "notebook_id": notebook_id,
        "notebook_name": "digits.ipynb",
        "session_id": None,
        "spec_text": "H100x8",
        "phase": "queued",
        "detail": "",
        "queue_position": None,
        "queue_length": None,
        "problem": None,
    } | fields


def pool(name: str = "this machine", **fields: Any) -> Json:
    return {
        "name": name,
        "address": "unix:/run/user/1000/nbgpu/agent.sock",
        "embedded": name == "this machine",
        "removable": name != "this machine",
        "link": "connected",
        "progress": None,
        "problem": None,
        "latency_ms": 0.4,
        "node": {
            "id": "n",
            "hostname": "lab-gpu-03",
            "platform": "linux",
            "cpu_count": 96,
            "memory_bytes": None,
            "driver_version": "580.65.06",
        },
        "offers": [],
        "accelerators": [],
        "sessions": [],
        "requests": [],
    } | fields


def sample(accelerator_id: str, time_unix_s: float, **fields: Any) -> Json:
    return {
        "accelerator_id": accelerator_id,
        "time_unix_s": time_unix_s,
        "simulated": False,
        "utilisation_percent": 94.0,
        "memory_used_bytes": 61 * GIB,
        "memory_total_bytes": 80 * GIB,
        "power_watts": 642.0,
        "power_limit_watts": 700.0,
        "temperature_celsius": 66.0,
        "sm_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "pcie_tx_bytes_per_s": 1.2e9,
        "pcie_rx_bytes_per_s": 8.4e9,
        "nvlink_tx_bytes_per_s": 132e9,
        "nvlink_rx_bytes_per_s": 130e9,
        "throttle_reasons": [],
        "ecc_errors_corrected": 0,
        "ecc_errors_uncorrected": 0,
        "xid": None,
        "session_id": None,
        "processes": [],
    } | fields


@dataclass
class Asked:
    """A request of the page."""

    method: str
    path: str
    """Below `/nbgpu/api/`, without the query."""
    body: Json


@dataclass
class PageFeed:
    """Answers one page, and remembers what it asked."""

    pools: list[Json] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    said: list[Json] = field(default_factory=list)
    """Over the WebSocket."""
    answers: dict[tuple[str, str], tuple[int, Json]] = field(default_factory=dict)
    """Status and body by method and path; others are answered with 200 and an empty object."""
    samples: dict[str, list[Json]] = field(default_factory=dict)
    """What is sent first to each page, by pool."""
    is_away: bool = False
    """Closes every connection at once."""
    _sockets: list[WebSocketRoute] = field(default_factory=list)

    def serve(self, page: Page) -> None:
        page.route(API, self._answer)
        page.route_web_socket(EVENTS, self._open)
        page.route_web_socket(REPLAY, lambda socket: socket.close(code=1000))  # no cell lacks any output

    def publish(self, *pools: Json) -> None:
        """Makes these the pools, and sends them to the page."""
        self.pools = list(pools)
        self._send({"kind": "state", "sent_unix_s": time.time(), "pools": self.pools, "problem": None})

    def publish_samples(self, pool_name: str, *samples: Json) -> None:
        self._send({"kind": "samples", "pool": pool_name, "samples": list(samples)})

    def cut(self) -> None:
        """Closes the page's connection, as a server that ends does."""
        sockets, self._sockets = self._sockets, []
        for socket in sockets:
            socket.close()

    @property
    def commands(self) -> list[tuple[str, str]]:
        """What the page asked for, questions left out."""
        return [(asked.method, asked.path) for asked in self.asked if asked.method != "GET"]

    def _open(self, socket: WebSocketRoute) -> None:
        if self.is_away:
            socket.close()
            return
        self._sockets.append(socket)
        socket.on_message(lambda message: self.said.append(json.loads(message)))
        socket.on_close(lambda code, reason: self._forget(socket))
        socket.send(json.dumps({"kind": "state", "sent_unix_s": time.time(), "pools": self.pools, "problem": None}))
        for name, samples in self.samples.items():
            socket.send(json.dumps({"kind": "samples", "pool": name, "samples": samples}))

    def _forget(self, socket: WebSocketRoute) -> None:
        if socket in self._sockets:
            self._sockets.remove(socket)

    def _send(self, message: Mapping[str, Any]) -> None:
        for socket in self._sockets:
            socket.send(json.dumps(message))

    def _answer(self, route: Route) -> None:
        url = route.request.url.split("/nbgpu/api/", 1)[1]
        path, _, _ = url.partition("?")
        body = route.request.post_data_json if route.request.post_data else {}
        self.asked.append(Asked(route.request.method, path, body))
        status, answer = self.answers.get((route.request.method, path), (200, self._default(path)))
        route.fulfill(status=status, json=answer)

    def _default(self, path: str) -> Json:
        if path == "samples":
            return {"samples": [sample for samples in self.samples.values() for sample in samples]}
        if path == "state":
            return {"sent_unix_s": time.time(), "pools": self.pools, "problem": None}
        return {}
