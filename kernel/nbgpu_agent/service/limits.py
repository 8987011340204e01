"""What the gRPC server lets one client use up, and why so much: one table."""

from __future__ import annotations

from typing import Any

OPTIONS: tuple[tuple[str, Any], ...] = (
    # Two agents on one port would each get some of the connections.
    ("grpc.so_reuseport", 0),
    # Fragments and blobs come in pieces of 1 MiB, a list of 10,000 files in 2; compressed ones count unpacked.
    ("grpc.max_receive_message_length", 4 << 20),
    # An answer is larger where many files or samples are listed.
    ("grpc.max_send_message_length", 16 << 20),
    # A token, a digest and a few names; what is above is refused before a handler sees it.
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    # On one connection. A notebook has a stream for each session and some for the panel, and moves eight blobs at once.
    ("grpc.max_concurrent_streams", 1000),
    # Who connects says who it is within 10 s; gRPC's own limit is 120.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A client whose machine went away behind a tunnel is noticed within 50 s, and one may ask as often as every 5 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A connection on which nothing is asked for half an hour is closed; clients connect again by themselves. There is
    # no greatest age: it would cut off who waits in a queue, or for an environment; and what it is for elsewhere, that
    # a token which was revoked loses its streams, is done by looking at the token every second.
    ("grpc.max_connection_idle_ms", 30 * 60_000),
)
