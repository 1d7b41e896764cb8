"""The memory: a transformers cache whose layers hold different tokens at positions of their own."""

from hermes.memory.config import ExecutionMode, MemoryConfig
from hermes.memory.insertion import append_memory, insert_blocks
from hermes.memory.kinds import LayerKind, LayerSpec, describe_layers
from hermes.memory.layer import KVLayer, Tokens, keeping
from hermes.memory.loading import load_memory, memory_of
from hermes.memory.memory import KVMemory
from hermes.memory.scope import Scope, being_read, check_scope, current_scope
from hermes.memory.shallow import first_layers, load_packed, packed
from hermes.memory.states import RecurrentLayer, SharedLayer, StateLayer, WindowLayer
from hermes.memory.storage import load_record, read_saved, read_tensors, write_tensors
from hermes.memory.updates import LayerUpdate, Mix, join_updates

__all__ = [
    "ExecutionMode",
    "KVLayer",
    "KVMemory",
    "LayerKind",
    "LayerSpec",
    "LayerUpdate",
    "MemoryConfig",
    "Mix",
    "RecurrentLayer",
    "Scope",
    "SharedLayer",
    "StateLayer",
    "Tokens",
    "WindowLayer",
    "append_memory",
    "being_read",
    "check_scope",
    "current_scope",
    "describe_layers",
    "first_layers",
    "insert_blocks",
    "join_updates",
    "keeping",
    "load_memory",
    "load_packed",
    "load_record",
    "memory_of",
    "packed",
    "read_saved",
    "read_tensors",
    "write_tensors",
]
