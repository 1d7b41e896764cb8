"""The clauses of a backbone's contract, one function each; a broken one raises :class:`ContractError`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

from hermes.backbone import cast_weights
from hermes.decoding.generation import GenerationConfig, generate
from hermes.decoding.prefill import prefill
from hermes.testing.backbone_trial import QUESTION, BackboneTrial, Skipped
from hermes.testing.trial import ContractError, State, copy_state, fingerprint
from hermes.tokens import Chunk, Provenance, TokenKind, VideoState

__all__ = ["BACKBONE_CLAUSES"]

# Relative to the largest value, what rounding explains per dtype.
_ROUNDING = {torch.float32: 1e-4}
_COARSE = 0.1
# Weights that are copied to be cast.
_COPIED = 2**31


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _close(ours: Tensor, theirs: Tensor, message: str) -> None:
    _require(ours.shape == theirs.shape, f"{message}: shape {list(ours.shape)}, not {list(theirs.shape)}")
    theirs = theirs.to(ours.device).float()
    apart = float((ours.float() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))
    allowed = _ROUNDING.get(ours.dtype, _COARSE)
    _require(apart <= allowed, f"{message}: they differ by {apart:.1%} of the largest")


def provenance_covers_every_token(trial: BackboneTrial) -> None:
    """Every token of a chunk says where it comes from, and the state counts what went by."""
    (prefix, chunk), state = trial.chunks(trial.backbone)
    frames, tokens, count = trial.frames(), chunk.tokens, len(chunk)
    _require(
        len(tokens) == count == chunk.positions.shape[-1],
        f"Chunk: {count} embeddings, {len(tokens)} origins, {chunk.positions.shape[-1]} positions",
    )
    _require(
        chunk.positions.shape[0] == trial.backbone.axes,
        f"Chunk.positions has {chunk.positions.shape[0]} axes, Backbone.axes says {trial.backbone.axes}",
    )
    _require(
        tokens.id.tolist() == list(range(len(prefix), len(prefix) + count)),
        "Chunk.tokens.id does not count every token of the stream up from the prefix (VideoState.next_id)",
    )
    known = {frame.index: frame.time for frame in frames}
    for index, time in zip(tokens.frame.tolist(), tokens.time.tolist(), strict=True):
        _require(index in known, f"Chunk.tokens.frame: {index}, which was not given (Frame.index)")
        _require(abs(known[index] - time) < 1e-3, f"Chunk.tokens.time of frame {index}: {time} s")
    visual = tokens.kind == int(TokenKind.VISUAL)
    _require(bool(visual.any()), "Chunk.tokens: none is of kind VISUAL, and policies keep those")
    places = torch.stack((tokens.frame, tokens.row, tokens.col))[:, visual]
    _require(bool((places[1:] >= 0).all()), "Chunk.tokens: a visual token without row and column")
    _require(places.unique(dim=1).shape == places.shape, "Chunk.tokens: two visual tokens share a place")
    for name, expected in (
        ("frames", len(frames)),
        ("groups", len(frames) // trial.group),
        ("next_id", len(prefix) + count),
    ):
        found = getattr(state, name)
        _require(found == expected, f"VideoState.{name} is {found} afterwards, not {expected} (state.add)")
    _require(chunk.frames == len(frames), f"Chunk.frames is {chunk.frames} for {len(frames)} frames")
    _require(chunk.advance >= 1, f"Chunk.advance is {chunk.advance}: the clock must move")
    _require(bool((chunk.positions >= 0).all()), "Chunk.positions: before the chunk's own start")
    if trial.backbone.sees:
        cost = trial.backbone.tokens_per_frame(84, 112)
        _require(
            count <= cost * len(frames),
            f"tokens_per_frame says {cost} and {len(frames)} frames have {count} tokens: it must be the most",
        )


def chunks_are_the_whole(trial: BackboneTrial) -> None:
    """Frames in chunks are the same tokens as all at once; in the native layout at the same positions."""
    (_, whole), after = trial.chunks(trial.native)
    (_, *parts), state = trial.chunks(trial.native, cuts=(1, 3))
    _close(
        torch.cat([part.embeds for part in parts], dim=1),
        whole.embeds,
        "embeddings depend on the cut: nothing but VideoState may pass from chunk to chunk",
    )
    _require(
        torch.equal(Provenance.cat([part.tokens for part in parts]).table, whole.tokens.table),
        "Chunk.tokens depends on the cut: count from VideoState (next_id, frames, groups)",
    )
    clock, absolute = 0, []
    for part in parts:
        absolute.append(part.positions + clock)
        clock += part.advance
    _close(torch.cat(absolute, dim=-1), whole.positions, "positions depend on the cut (Chunk.advance)")
    for name, value in vars(after).items():
        if isinstance(value, int):
            found = getattr(state, name)
            _require(found == value, f"VideoState.{name} depends on the cut: {found}, not {value}")


def prompt_is_the_processors(trial: BackboneTrial) -> None:
    """The native layout writes what the stock processor writes, token for token, timestamps included."""
    ids, backbone = trial.stock["input_ids"], trial.native
    (prefix, chunk), state = trial.chunks(backbone)
    closing = backbone.closing(state)
    question = backbone.question_ids(QUESTION)
    visual = chunk.tokens.kind == int(TokenKind.VISUAL)
    extra = 0 if closing is None else closing.shape[1]
    length = len(prefix) + len(chunk) + extra + question.shape[1]
    _require(
        length == ids.shape[1],
        f"the prompt has {length} tokens, the stock one {ids.shape[1]}: prefix {len(prefix)}, frames "
        f"{len(chunk)}, question {question.shape[1]}; see prefix_text, video and question_text",
    )
    stock = backbone.embed(ids)
    _close(prefix.embeds, stock[:, : len(prefix)], "the prefix is not the stock prompt's (prefix_text)")
    video = stock[:, len(prefix) : len(prefix) + len(chunk)]
    text = ~visual.to(video.device)
    if text.any():
        _close(
            chunk.embeds[:, text], video[:, text], "what is written around frames is not the stock prompt's"
        )
    _require(
        torch.equal(question, ids[:, ids.shape[1] - question.shape[1] :]),
        "the question is not written as the stock template does (question_text, native_parts)",
    )


def answers_are_the_models(trial: BackboneTrial) -> None:
    """Chunk by chunk with nothing evicted: the logits of stock ``generate`` on the same pixels."""
    inputs, backbone = trial.stock, trial.native
    options = {
        "max_new_tokens": 4,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with trial.apart():
        stock = backbone.model.generate(**inputs, **options)
    chunks, state = trial.chunks(backbone, cuts=(1, 3))
    memory = backbone.new_memory()
    for number, chunk in enumerate(chunks):
        prefill(backbone, memory, chunk, prefix=number == 0)
    closing = backbone.closing(state)
    if closing is not None:
        prefill(backbone, memory, Chunk.text(closing, backbone.axes))
    ids = backbone.question_ids(QUESTION)
    made = generate(backbone, memory, ids, GenerationConfig(4, repetition_penalty=1))
    _close(
        made.first_logits,
        stock.logits[0][0],
        "the first token's logits are not the model's own: positions (Chunk.positions, advance), features "
        "or prefill_kwargs are not the stock ones",
    )
    expected = stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    _require(made.ids.tolist() == expected, f"the answer is {made.ids.tolist()}, of the model {expected}")


def pixels_are_the_processors(trial: BackboneTrial) -> None:
    """The encoder is given the pixels that the stock processor makes."""
    processor, frames = trial.pixel_processor, trial.frames()
    with trial.apart(), trial.encoding() as calls:
        trial.native.video(frames, VideoState(), fps=2.0)
    images = [torch.from_numpy(frame.image).permute(2, 0, 1) for frame in frames]
    options, size = {}, trial.native.recipe.size
    if "video_grid_thw" in calls[0] and "longest_edge" in size:
        # Such processors take it for the pixels of a whole clip, a stream for those of a frame.
        options["size"] = {**size, "longest_edge": size["longest_edge"] * len(frames)}
    stock = processor(
        videos=[torch.stack(images)],
        do_sample_frames=False,
        return_tensors="pt",
        return_metadata=True,
        **options,
    )
    names = ("pixel_values_videos", "pixel_values", "video_grid_thw")
    for name in names:
        if name in stock and name in calls[0]:
            ours, theirs = calls[0][name], stock[name]
            if name == "video_grid_thw":
                _require(torch.equal(ours.cpu(), theirs.cpu()), f"{name}: {ours.tolist()}, {theirs.tolist()}")
                continue
            ours, theirs = ours.float().flatten().cpu(), theirs.float().flatten().cpu()
            _require(len(ours) == len(theirs), f"{name}: {len(ours)} numbers, of the processor {len(theirs)}")
            # One grey level of 255, where resizing rounds.
            apart = float((ours - theirs).abs().max())
            _require(
                apart <= 0.05, f"{name} differs by up to {apart:.3f}: see Backbone.recipe (size, mean, std)"
            )


def attention_is_the_decoders(trial: BackboneTrial) -> None:
    """Rotation, projections, memory attention and the probe agree with the decoder's plain attention."""
    _require(bool(trial.differences), "the self-check compared nothing")


def sessions_share_the_model(trial: BackboneTrial) -> None:
    """Two sessions that take turns on one model are each as if it were alone."""
    alone: list[State] = []
    for seed in (0, 1):
        session = trial.session()
        session.feed(trial.frames(seed=seed))
        session.flush()
        alone.append(copy_state(session.memory))
    pair = trial.session(), trial.session()
    feeds = [trial.frames(seed=seed) for seed in (0, 1)]
    for at in range(0, len(feeds[0]), trial.group):
        for session, frames in zip(pair, feeds, strict=True):
            session.feed(frames[at : at + trial.group])
    for session, expected in zip(pair, alone, strict=True):
        session.flush()
        _require(
            _same(copy_state(session.memory), expected),
            "a session changes what another one holds: the backbone must keep nothing of a stream but in "
            "VideoState",
        )


def numbers_are_finite_in_half_precision(trial: BackboneTrial) -> None:
    """In bfloat16 no key, value or logit overflows."""
    backbone = trial.backbone
    if backbone.dtype == torch.float32:
        size = sum(weight.nbytes for weight in backbone.model.parameters())
        if size > _COPIED:
            raise Skipped(f"weights of {size / 1e9:.1f} GB are not copied; load them in bfloat16")
        backbone = copy.copy(backbone)
        backbone.model = copy.deepcopy(backbone.model)
        cast_weights(backbone.model, torch.bfloat16)
        for name in ("core",):
            if hasattr(backbone, name):
                own = getattr(trial.backbone.model, "model", None)
                inner = backbone.model.model if getattr(backbone, name) is own else backbone.model
                setattr(backbone, name, inner)
        backbone.checked = True
    session = trial.session(backbone=backbone)
    session.feed(trial.frames())
    session.ask(QUESTION)
    for layer in copy_state(session.memory):
        for name, tensor in layer.items():
            whole = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
            _require(whole, f"{name} in bfloat16 are not finite")


def streams_fork_and_go_on(trial: BackboneTrial) -> None:
    """A question leaves the memory as it was; a stream saved and resumed answers as it would have."""
    native = trial.backbone.config.layout == "native" and not trial.backbone.native_evicts
    session, again = (trial.session("full" if native else "fifo") for _ in range(2))
    session.feed(trial.frames())
    session.flush()
    before = copy_state(session.memory)
    answer = session.ask(QUESTION).ids.tolist()
    _require(_same(before, copy_state(session.memory)), "a question changed the memory")
    with tempfile.TemporaryDirectory() as folder:
        session.save(folder)
        again.resume(folder)
    _require(_same(before, copy_state(again.memory)), "a saved memory is another one when read back")
    _require(again.ask(QUESTION).ids.tolist() == answer, "a resumed stream answers otherwise")


def model_is_left_as_found(trial: BackboneTrial) -> None:
    """Attention, hooks, mode, gradients and settings of the model are as they were before all of this."""
    _require(
        fingerprint(trial.backbone.model) == trial.found,
        "the model was changed for good: attributes, hooks, mode, requires_grad or generation_config",
    )


def _same(one: State, other: State) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


BACKBONE_CLAUSES: tuple[Callable[[BackboneTrial], None], ...] = (
    provenance_covers_every_token,
    chunks_are_the_whole,
    prompt_is_the_processors,
    answers_are_the_models,
    pixels_are_the_processors,
    attention_is_the_decoders,
    sessions_share_the_model,
    numbers_are_finite_in_half_precision,
    streams_fork_and_go_on,
    model_is_left_as_found,
)
