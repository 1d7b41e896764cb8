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
    "minimax_m3_sparse": "a memory for the keys of its indexer",
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
    told = getattr(config, "layer_types", None)
    kinds = [str(kind) for kind in told] if told else [_untold(config, number) for number in range(count)]
    shared = int(getattr(config, "num_kv_shared_layers", None) or 0)
    specs: list[LayerSpec] = []
    for number, kind in enumerate(kinds[:count]):
        if _value(config, number, "kv_lora_rank") is not None:
            _refuse(config, number, "latent attention (kv_lora_rank)", "a memory of compressed latents")
        elif number >= count - shared > 0:
            specs.append(_shared(config, number, kinds[: count - shared], kind))
        elif kind in _MANAGED:
            specs.append(LayerSpec("managed"))
        elif kind in _WINDOWS:
            specs.append(LayerSpec("window", window=_window(config, number, _WINDOWS[kind])))
        elif kind in _RECURRENT:
            states = _value(config, number, "number_of_conv_states") or 1
            specs.append(LayerSpec("recurrent", states=int(states)))
        else:
            _refuse(config, number, repr(kind), _MISSING.get(kind, "a memory for layers of this kind"))
    if not any(spec.kind == "managed" for spec in specs):
        raise UnsupportedModelError(
            f"{_name(config)}: none of its {count} layers has full attention ({', '.join(sorted({*kinds}))})"
            ": there is nothing for a memory policy to keep or evict. Use a checkpoint with some such layers"
        )
    return tuple(specs)


def _untold(config: Any, number: int) -> str:
    """The kind of a layer of a decoder that does not name them."""
    if _value(config, number, "sliding_window") is not None and getattr(config, "use_sliding_window", True):
        return "sliding_attention"
    if _value(config, number, "attention_chunk_size") is not None:
        return "chunked_attention"
    return "full_attention"


def _value(config: Any, number: int, name: str) -> Any:
    """A setting of one layer: in some decoders layers have their own."""
    own = getattr(config, "per_layer_config", None)
    return getattr(own[number] if own else config, name, None)


def _window(config: Any, number: int, name: str) -> int:
    size = _value(config, number, name)
    if not isinstance(size, int) or size < 2:
        _refuse(config, number, f"a window of {size!r} tokens ({name})", "the size of its window")
    return size


def _shared(config: Any, number: int, kinds: list[str], kind: str) -> LayerSpec:
    """The last layer before the shared ones that is of the same kind lends its keys."""
    if kind not in kinds or kind in _RECURRENT:
        _refuse(config, number, f"shared {kind!r}", "an earlier layer of its kind, whose keys it would read")
    return LayerSpec("shared", source=len(kinds) - 1 - kinds[::-1].index(kind))


def _name(config: Any) -> str:
    return str(getattr(config, "model_type", type(config).__name__))


def _refuse(config: Any, number: int, kind: str, missing: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{_name(config)}: layer {number} is {kind}, and {missing} is missing; supported are layers of full "
        "attention, sliding windows and chunks, gated delta-nets, state spaces and convolutions"
    )
