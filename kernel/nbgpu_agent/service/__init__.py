"""The gRPC edge: protobuf messages in and out, errors translated, nothing decided here."""
