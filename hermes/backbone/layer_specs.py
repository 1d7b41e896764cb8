"""Which kinds of layers a decoder has, read from its configuration."""

from __future__ import annotations

from typing import Any, NoReturn

from hermes.errors import UnsupportedModelError
from hermes.memory import LayerSpec

__all__ = ["layer_specs"]

# Names that `layer_types` of transformers' configurations give.
_MANAGED = frozenset({"full_attention", "attention"})
_WINDOWS = {
    "sliding_attention": "sliding_window",
    "local_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
}
_RECURRENT = frozenset({"linear_attention", "conv", "mamba", "mamba2"})
# What would have to be written before a memory could serve them.
_MISSING = {
    "indexed_attention": "a memory for the keys of its indexer",
    "sparse_attention": "a memory for the keys of its indexer",
    "compressed_sparse_attention": "a memory of compressed latents",
    "heavily_compressed_attention": "a memory of compressed latents",
    "hybrid": "a layer that holds tokens and a state at once",
    "hybrid_sliding": "a layer that holds a window and a state at once",
    "moe": "a layer that remembers nothing",
    "mlp": "a layer that remembers nothing",
}


def layer_specs(config: Any) -> tuple[LayerSpec, ...]:
    """What each decoder layer remembers, in order.

    Args:
        config: of the text decoder (``model.config.get_text_config()``). Read are ``layer_types``,
            ``sliding_window``, ``attention_chunk_size`` and ``num_kv_shared_layers``.

    Raises:
        UnsupportedModelError: a kind of layer that no memory is written for, by name, or no layer with full
            attention.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    >>> [spec.kind for spec in layer_specs(config)]
    ['recurrent', 'managed']
    """
    count = int(config.num_hidden_layers)
    kinds = [str(kind) for kind in getattr(config, "layer_types", None) or _untold(config, count)]
    if getattr(config, "kv_lora_rank", None) is not None:
        _refuse(config, 0, "latent attention (kv_lora_rank)", "a memory of compressed latents")
    shared = int(getattr(config, "num_kv_shared_layers", None) or 0)
    specs: list[LayerSpec] = []
    for number, kind in enumerate(kinds[:count]):
        if number >= count - shared > 0:
            specs.append(_shared(config, number, kinds[: count - shared]))
        elif kind in _MANAGED:
            specs.append(LayerSpec("managed"))
        elif kind in _WINDOWS:
            specs.append(LayerSpec("window", window=_window(config, number, _WINDOWS[kind])))
        elif kind in _RECURRENT:
            specs.append(LayerSpec("recurrent", states=int(getattr(config, "number_of_conv_states", 1))))
        else:
            _refuse(config, number, repr(kind), _MISSING.get(kind, "a memory for layers of this kind"))
    if not any(spec.kind == "managed" for spec in specs):
        raise UnsupportedModelError(
            f"{_name(config)}: none of its {count} layers has full attention ({', '.join(sorted({*kinds}))})"
            ": there is nothing for a memory policy to keep or evict. Use a checkpoint with some such layers"
        )
    return tuple(specs)


def _untold(config: Any, count: int) -> list[str]:
    """Kinds of the layers of a decoder that does not name them."""
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return ["sliding_attention"] * count
    if getattr(config, "attention_chunk_size", None) is not None:
        return ["chunked_attention"] * count
    return ["full_attention"] * count


def _window(config: Any, number: int, name: str) -> int:
    own = getattr(config, "per_layer_config", None)
    size = getattr(own[number] if own else config, name, None)
    if not isinstance(size, int) or size < 1:
        _refuse(config, number, f"a window of {size!r} tokens ({name})", "the size of its window")
    return size


def _shared(config: Any, number: int, kinds: list[str]) -> LayerSpec:
    """The last layer before the shared ones that is of the same kind lends its keys."""
    kind = str(config.layer_types[number]) if getattr(config, "layer_types", None) else kinds[-1]
    if kind not in kinds:
        _refuse(config, number, f"shared {kind!r}", "an earlier layer of its kind, whose keys it would read")
    return LayerSpec("shared", source=len(kinds) - 1 - kinds[::-1].index(kind))


def _name(config: Any) -> str:
    return str(getattr(config, "model_type", type(config).__name__))


def _refuse(config: Any, number: int, kind: str, missing: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{_name(config)}: layer {number} is {kind}, and {missing} is missing; supported are layers of full "
        "attention, sliding windows and chunks, gated delta-nets, state spaces and convolutions"
    )
