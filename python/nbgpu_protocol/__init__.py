"""What the notebook's side and the agent's side agree on: messages, framing, names, and where an agent is found."""

VERSION = 1
"""Version of the protocol. Raised when clients and agents of neighbouring versions could misunderstand each other."""

ERROR_METADATA_KEY = "nbgpu-error-bin"
"""Trailing metadata of a failed RPC: a serialised `nbgpu.v1.Error`."""

MAX_PAYLOAD_BYTES = 1 << 20
"""Payload of one fragment. 256 KiB to 4 MiB carry bytes equally fast; 1 MiB stays under gRPC's default limit."""
