"""What accelerators the node has, and what they are doing: NVIDIA's through NVML, simulated ones, and the CPU."""
