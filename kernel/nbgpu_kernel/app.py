"""The kernel's application: ipykernel's own, with this package's kernel and unbounded output queues."""

from __future__ import annotations

from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp

from nbgpu_kernel.kernel import SessionKernel


class SessionKernelApp(IPKernelApp):
    """ipykernel's application. Its configuration files and sections are ipykernel's as well."""

    kernel_class = SessionKernel
    outstream_class = "nbgpu_kernel.streams.SessionOutStream"

    def init_iopub(self, context: Any) -> None:
        """Binds the output socket without a high water mark: zmq drops what a flood of output has above it."""
        context.setsockopt(zmq.SNDHWM, 0)  # the default of the sockets made from now on
        super().init_iopub(context)  # type: ignore[no-untyped-call]
