"""How arrays and tensors are pickled: their bytes out of band, CUDA tensors as CPU tensors, shared storages shared."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType
from typing import Any

_MAX_STORAGE_RATIO = 2
"""A tensor that is a view of a storage more than so many times its size travels without the rest of it."""


class ValueTooLargeError(ValueError):
    """Raised when what is pickled grows beyond its limit. Its end is not known then, nor its size."""


def loaded_module(name: str) -> Any:
    """Returns a module that was imported, or None; does not load one that is imported lazily."""
    module = sys.modules.get(name)
    return module if type(module) is ModuleType else None


def storage_id(obj: Any) -> int | None:
    """Returns by which a tensor is known to share memory, as `SharedMemory` has it; None for what is none."""
    torch = loaded_module("torch")
    kind: Any = getattr(torch, "Tensor", ())
    if (
        not kind
        or type(obj) is not kind
        or obj.layout != torch.strided
        or obj.is_quantized
        or obj.device.type == "meta"
    ):
        return None
    address = obj.untyped_storage().data_ptr()
    return -address if address else None


class TensorReducer:
    """For one pickle: knows the storages that were in it already.

    Args:
        limit_bytes: Tensors that are not in this machine's memory are not fetched beyond this.
        keeps_views: A tensor that is a small part of its storage travels with all of it.
        only_shared_ids: The pickle is thrown away, and no content looked at.
    """

    def __init__(
        self, limit_bytes: int | None = None, *, keeps_views: bool = False, only_shared_ids: bool = False
    ) -> None:
        self._limit_bytes = limit_bytes
        self._keeps_views = keeps_views
        self._only_shared_ids = only_shared_ids
        self._fetched_bytes = 0
        self._torch = loaded_module("torch")
        self._numpy = loaded_module("numpy")
        # A module that is being imported has nothing yet.
        self._tensor: Any = getattr(self._torch, "Tensor", ())
        self._array: Any = getattr(self._numpy, "ndarray", ())
        self._storages: dict[int, Storage] = {}
        self._seen: dict[int, SharedMemory] = {}

    def reduce(self, obj: Any) -> Any:
        """Returns what a pickler's `reducer_override` does."""
        if type(obj) is self._array:
            flags = obj.flags
            if flags.c_contiguous or flags.f_contiguous or obj.dtype.hasobject:
                return NotImplemented
            return self._numpy.ascontiguousarray(obj).__reduce_ex__(5)
        if self._tensor and isinstance(obj, self._tensor):
            return self._reduce_tensor(obj)
        return NotImplemented

    def _reduce_tensor(self, tensor: Any) -> Any:
        torch = self._torch
        is_plain = type(tensor) is torch.Tensor and tensor.layout == torch.strided and not tensor.is_quantized
        if tensor.device.type == "meta":
            return NotImplemented
        if type(tensor) is torch.nn.Parameter:
            return NotImplemented  # it is taken apart into its data, which comes here again
        if is_plain and self._only_shared_ids:
            address = tensor.untyped_storage().data_ptr()
            return bool, (self._seen.setdefault(address, SharedMemory(address)),)
        if not is_plain:
            self._count_fetched(tensor, tensor.numel() * tensor.element_size())
            return NotImplemented if tensor.device.type == "cpu" else tensor.cpu().__reduce_ex__(5)
        data = tensor.detach().resolve_conj().resolve_neg()
        size_bytes = data.numel() * data.element_size()
        storage, address = data.untyped_storage(), tensor.untyped_storage().data_ptr()
        is_known = storage.data_ptr() in self._storages
        if not self._keeps_views and not is_known and storage.nbytes() > _MAX_STORAGE_RATIO * size_bytes:
            self._count_fetched(data, size_bytes)
            data = data.cpu().clone(memory_format=torch.contiguous_format)
            storage = data.untyped_storage()
        elif not is_known:
            self._count_fetched(data, storage.nbytes())
        token = None
        if storage.nbytes():
            # Known by where it is, on whatever device, so that views that share it there share it on the other side.
            token = self._storages.setdefault(storage.data_ptr(), Storage(storage, torch, address))
        arguments = (token, data.dtype, data.storage_offset(), tuple(data.shape), data.stride(), tensor.requires_grad)
        if getattr(tensor, "__dict__", None):
            return make_tensor, arguments, dict(tensor.__dict__), None, None, set_attributes
        return make_tensor, arguments

    def _count_fetched(self, tensor: Any, size_bytes: int) -> None:
        if tensor.device.type == "cpu":
            return
        self._fetched_bytes += size_bytes
        if self._limit_bytes is not None and self._fetched_bytes > self._limit_bytes:
            raise ValueTooLargeError(self._limit_bytes)


class SharedMemory:
    """By which tensors are known to share memory.

    Args:
        address: Of the storage in this process, on whatever device.
    """

    def __init__(self, address: int) -> None:
        self.shared_id = -address  # no object's id, which is above 0

    def __reduce__(self) -> tuple[Any, ...]:
        return bool, ()


class Storage(SharedMemory):
    """Pickled as the storage's bytes."""

    def __init__(self, storage: Any, torch: Any, address: int) -> None:
        super().__init__(address)
        self._storage = storage
        self._torch = torch

    def __reduce__(self) -> tuple[Any, ...]:
        flat = self._torch.empty(0, dtype=self._torch.uint8, device="cpu").set_(self._storage.cpu())
        try:
            content: Any = pickle.PickleBuffer(flat.numpy())
        except RuntimeError:  # torch without numpy
            content = bytearray(flat.tolist())
        return make_storage, (content,)


def make_storage(content: Any) -> Any:
    """Called by the unpickler."""
    import torch

    view = memoryview(content)
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8).untyped_storage()


def make_tensor(
    storage: Any, dtype: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
) -> Any:
    """Called by the unpickler."""
    import torch

    tensor = torch.empty(0, dtype=dtype, device="cpu")  # whatever the person has made the default
    tensor = tensor.new_empty(shape) if storage is None else tensor.set_(storage, offset, shape, stride)
    return tensor.requires_grad_(requires_grad)


def set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Called by the unpickler, for what people set as attributes of a tensor."""
    obj.__dict__.update(attributes)
