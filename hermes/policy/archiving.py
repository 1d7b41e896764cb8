"""A policy that keeps what it evicts in an archive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from hermes.policy.archive import Archive, Store
from hermes.policy.policy import Bound, MemoryPolicy, StreamContext


class Archiving(MemoryPolicy):
    """A policy with an archive: it grows with the stream, while what the decoder reads does not.

    A subclass has a setting ``store`` and calls ``self.archived.add`` in its hook
    ``archive``, and :func:`insert_blocks` in ``recall``. Streams go one at a time.
    """

    bound: ClassVar[Bound] = "growing"
    lockstep: ClassVar[bool] = False

    store: Store
    archived: Archive

    def start(self, context: StreamContext) -> None:
        """Begin a stream with an empty archive."""
        super().start(context)
        self.archived = Archive(self.store, context.num_layers)

    @property
    def archived_bytes(self) -> int:
        """Bytes of what is stored outside the memory."""
        return self.archived.archived_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of the index, which lies where the memory does."""
        return self.archived.resident_bytes

    def state(self) -> Mapping[str, Tensor]:
        """The archive's blocks and index, for saving a stream."""
        return {f"archive/{name}": tensor for name, tensor in self.archived.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Fill the empty archive with what :meth:`state` gave."""
        own = {k.removeprefix("archive/"): t for k, t in state.items() if k.startswith("archive/")}
        self.archived.restore(own)
