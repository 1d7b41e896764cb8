"""Stages 1 and later: the decoder learns to answer, from frames that are looked up rather than encoded."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from hermes.training import attention
from hermes.training.optim import MuonAdamW
from hermes.training.packing import IGNORED, KIND_NAMES, NEWLINE, Batch

__all__ = ["DecoderModule"]


class DecoderModule(LightningModule):  # type: ignore[misc]
    """The decoder of the embedded model on packed rows.

    Args:
        model: the whole model; vision and projector are left as they are.
        table: tokens of every look, ``hermes.training.vision.feature_table``.
        schedule: step -> learning rates of Muon and AdamW.
        hint_layer: the layer whose output must know the answer, as a word, and the letter of each option;
            the layers above it then only have to find the letter of that word.
        hint_weight: of that loss.
    """

    def __init__(
        self,
        model: Any,
        table: Float[Tensor, "variants rows d"],
        schedule: Any,
        *,
        slot: int,
        compiled: bool,
        hint_layer: int = 0,
        hint_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.slot = slot
        self.hint_layer, self.hint_weight = hint_layer, hint_weight
        self.register_buffer("table", table, persistent=False)
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
        attention.register()
        model.set_attn_implementation({"text_config": attention.NAME})
        if compiled:
            # One graph for each length of stream, twice for training and validation.
            torch._dynamo.config.recompile_limit = 64
            for layer in model.model.language_model.layers:
                layer.compile(dynamic=False)
        self.seconds = 0.0
        self._started = 0.0
        self._right: dict[int, list[int]] = defaultdict(lambda: [0, 0])

    def hidden(self, batch: Batch, *, early: bool = False) -> tuple[Tensor, Tensor | None]:
        """Last hidden state ``[B, N, d]`` and, if asked for, that of the hint's layer."""
        model = self.model.model
        embeds = model.get_input_embeddings()(batch.ids)
        visual = batch.look >= 0
        variant = batch.look.sum(1) % len(self.table)
        rows = variant[:, None].expand_as(batch.look)[visual]
        embeds = embeds.masked_scatter(
            visual[..., None], self.table[rows, batch.look[visual]].to(embeds.dtype)
        )
        embeds = torch.where((batch.look == NEWLINE)[..., None], model.image_newline.to(embeds.dtype), embeds)
        mask = attention.packed_mask(batch.segment, batch.seen, batch.context, self.slot)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embeds.dtype
        bias = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        out = model.language_model(
            inputs_embeds=embeds,
            position_ids=batch.position,
            attention_mask=bias,
            use_cache=False,
            output_hidden_states=early,
        )
        return out.last_hidden_state, out.hidden_states[self.hint_layer] if early else None

    def logits(self, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets ``[m, vocab], [m]`` of the tokens to be learned, row by row."""
        learned = target != IGNORED
        return self.model.lm_head(hidden[learned]).float(), target[learned]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Cross-entropy over the answers' tokens, and over the words they stand for at the hint's layer."""
        last, early = self.hidden(batch, early=self.hint_weight > 0)
        loss = F.cross_entropy(*self.logits(last, batch.target))
        self.log("train/loss", loss, prog_bar=True)
        if early is not None:
            early = self.model.model.language_model.norm(early)
            # An option says its letter and still itself, so that the answer's word finds it.
            option = (batch.hint != IGNORED) & (batch.target == IGNORED)
            itself = batch.ids.masked_fill(~option, IGNORED)
            (said, word), (own, name) = self.logits(early, batch.hint), self.logits(early, itself)
            hint = F.cross_entropy(torch.cat([said, own]), torch.cat([word, name]))
            self.log("train/hint", hint)
            loss = loss + self.hint_weight * hint
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Counts answers whose every token is right, by kind."""
        logits, target = self.logits(self.hidden(batch)[0], batch.target)
        hit = logits.argmax(-1) == target
        rows, columns = (batch.target != IGNORED).nonzero(as_tuple=True)
        owner = rows * 10_000 + batch.segment[rows, columns - batch.context]
        kind = batch.kind[rows, columns]
        for question in owner.unique():
            tokens = owner == question
            counted = self._right[int(kind[tokens][0])]
            counted[0] += int(hit[tokens].all())
            counted[1] += 1

    def on_validation_epoch_end(self) -> None:
        """Logs accuracies by kind."""
        for kind, (right, count) in sorted(self._right.items()):
            self.log(f"validation/{KIND_NAMES[kind]}", 100 * right / count)
        self._right.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the time spent."""
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on counting the time."""
        self.seconds = checkpoint.get("seconds", 0.0)

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Counts the step."""
        now = time.monotonic()
        self.seconds += now - (self._started or now)
        self._started = now

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Sets the step's learning rates."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        for group, rate in zip(optimizer.param_groups, self.schedule(self.global_step), strict=True):
            group["lr"] = rate

    def configure_optimizers(self) -> MuonAdamW:
        """The optimiser of every trained parameter."""
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                is_matrix = parameter.dim() == 2 and ".layers." in name
                (matrices if is_matrix else others).append(parameter)
        muon, adam = self.schedule(0)
        return MuonAdamW(matrices, others, muon_lr=muon, adam_lr=adam)
