"""What NVML's bits and codes mean, in words: why clocks are held down, and what the driver's errors (XIDs) say."""

from __future__ import annotations

import pynvml

_REASONS = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal limit",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal slowdown by the hardware",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "slowdown by the hardware",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "in step with a slower GPU",
}
"""Idleness, and clocks that somebody has set, hold no work down that the GPU could do, and are left out."""

_HARDWARE_KINDS = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown

# From NVIDIA's "XID Errors", its table of 2025.
_XIDS = {
    13: "graphics engine exception, usually an invalid access by a program",
    31: "memory page fault, usually an invalid access by a program",
    32: "invalid or corrupted push buffer",
    38: "driver firmware error",
    43: "the GPU stopped processing",
    45: "preemptive cleanup after an earlier error",
    48: "double bit ECC error",
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    63: "row remapping or page retirement recorded",
    64: "row remapping or page retirement failed",
    68: "video processor exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of single bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "the GPU's system processor does not answer",
    120: "error of the GPU's system processor",
    140: "unrecovered ECC error",
}


def reasons_in_words(bits: int) -> tuple[str, ...]:
    """Returns why clocks are lower than they could be; empty where nothing holds them down."""
    if bits & _HARDWARE_KINDS:
        bits &= ~pynvml.nvmlClocksThrottleReasonHwSlowdown  # of which the others are the kinds
    return tuple(words for bit, words in _REASONS.items() if bits & bit)


def xid_in_words(code: int) -> str:
    """Returns what an XID means; empty for one that is not known here."""
    return _XIDS.get(code, "")
