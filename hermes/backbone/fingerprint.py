"""Which weights a model has, as a short text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from hermes.backbone.backbone import Backbone

__all__ = ["weights_fingerprint"]

# Numbers of four bytes that become one sum, and sums that are taken at once: 256 MB of work space.
_BLOCK, _AT_ONCE = 2**16, 2**8
# A smaller model is read anew each time: writing past torch's counters (``weight.data``) is then seen, too.
_SMALL_BYTES = 2**26


def weights_fingerprint(backbone: Backbone) -> str:
    """A short hexadecimal text that another model has only where every weight is the same, bit by bit.

    Names, shapes and number types count as well as values; the device does not, nor how layers are spread
    over several. Tensors are summed up where they are, so that no weights travel.

    Args:
        backbone: a loaded model family.

    >>> from hermes import open_session
    >>> backbone = open_session().backbone
    >>> weights_fingerprint(backbone) == weights_fingerprint(backbone), len(weights_fingerprint(backbone))
    (True, 32)
    """
    model: nn.Module = backbone.model
    state = tuple((id(x), -1 if x.is_inference() else x._version) for _, x in _own(model))
    known: tuple[object, str] | None = vars(backbone).get("_fingerprint")
    if known is not None and known[0] == state:
        return known[1]
    digest, size = hashlib.blake2b(digest_size=16), 0
    for prefix, module in sorted(model.named_modules()):
        # Weights that lie in the host's memory or in files while they are not used are fetched, one module's.
        with align_module_device(module):
            for name, tensor in sorted((*_own(module, recurse=False), *_packed(module))):
                digest.update(f"{prefix}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                for part in _plain(tensor.detach()):
                    digest.update(_sums(part))
                    size += part.nbytes
    found = digest.hexdigest()
    if size > _SMALL_BYTES:
        vars(backbone)["_fingerprint"] = (state, found)
    return found


def _own(module: nn.Module, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and those buffers that a checkpoint holds; what else there is follows from the settings."""
    yield from module.named_parameters(recurse=recurse)
    for prefix, part in module.named_modules() if recurse else [("", module)]:
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


def _packed(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a module of packed weights saves beside parameters and buffers: integers and their scales."""
    saved: dict[str, object] = {}
    module._save_to_state_dict(saved, "", keep_vars=True)
    known = {name for name, _ in _own(module, recurse=False)}
    for name in saved.keys() - known:
        for number, part in enumerate(_flat(saved[name])):
            if part.is_quantized:
                yield f"{name}.{number}.scale", torch.as_tensor(part.q_scale())
            yield f"{name}.{number}", part.int_repr() if part.is_quantized else part


def _flat(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that a tensor consists of: itself, or integers and scales as torchao keeps weights."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain(getattr(tensor, name))


def _sums(tensor: Tensor) -> bytes:
    """Sums of the tensor's bits, each number times an odd one that depends on its place in the block.

    Integers wrap around alike on every device.
    """
    raw = tensor.contiguous().flatten().view(torch.uint8)
    if raw.storage_offset() % 4:
        raw = raw.clone()
    whole = raw.numel() // (4 * _BLOCK) * (4 * _BLOCK)
    weights = _weights(raw.device)
    parts = [
        (rows.view(-1, _BLOCK).long() * weights).sum(-1)
        for rows in raw[:whole].view(torch.int32).split(_BLOCK * _AT_ONCE)
        if len(rows)
    ]
    rest = raw[whole:].long()
    parts += [(piece * weights[: len(piece)]).sum(-1, keepdim=True) for piece in rest.split(_BLOCK)]
    return torch.cat(parts).cpu().numpy().tobytes() if parts else b""


@lru_cache(maxsize=8)
def _weights(device: torch.device) -> Tensor:
    place = torch.arange(_BLOCK, device=device)
    mixed = place * 0x1E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    return (mixed ^ (mixed >> 32)) | 1
