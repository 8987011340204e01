"""The kernel's application: ipykernel's own, with this package's kernel, unbounded output queues and one shell."""

from __future__ import annotations

import threading
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from traitlets import default

from nbgpu_kernel import sending, updates
from nbgpu_kernel.kernel import SessionKernel


class _NoShellChannelThread:
    """Stands where ipykernel 7 has the thread that passes each shell message on to the main thread or a subshell.

    The agent hands a kernel one execution at a time, and asks for no subshells. Without the thread the main thread
    reads and answers by itself, as it does in ipykernel 6: 0.5 ms less of a `pass` cell's 2.3 ms.
    """

    parent_thread = threading.main_thread()

    def __bool__(self) -> bool:
        return False


class SessionKernelApp(IPKernelApp):
    """ipykernel's application. Its configuration files and sections are ipykernel's as well."""

    kernel_class = SessionKernel
    outstream_class = "nbgpu_kernel.streams.SessionOutStream"

    @default("session")
    def _make_session(self) -> sending.KernelSession:
        return sending.KernelSession(parent=self)

    def init_iopub(self, context: Any) -> None:
        """Binds the output socket without a high water mark: zmq drops what a flood of output has above it."""
        context.setsockopt(zmq.SNDHWM, 0)  # the default of the sockets made from now on
        super().init_iopub(context)  # type: ignore[no-untyped-call]
        sending.install_outbox(self.iopub_thread)

    def init_control(self, context: Any) -> None:
        super().init_control(context)  # type: ignore[no-untyped-call]
        self.shell_channel_thread = _NoShellChannelThread()

    def init_kernel(self) -> None:
        super().init_kernel()  # type: ignore[no-untyped-call]
        updates.install(self.kernel)
        sending.install(self.kernel, self.iopub_thread)
