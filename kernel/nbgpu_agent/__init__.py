"""The GPU node's side: owns the node's accelerators, and serves sessions on them."""
