"""What accelerators the node has, and how they are read: NVML, simulated, CPU."""
