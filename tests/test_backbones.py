"""Model families: chunks against one shot, native layouts against stock `generate`, loading, and what errors say."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hermes.backbone import Backbone, BackboneConfig, Chunk, VideoState
from hermes.chat import chatml, split_template
from hermes.config import available
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.loading import load_backbone, save_checkpoint
from hermes.pixels import prepare, prepare_patches
from hermes.positions import expand_axes
from hermes.provenance import Kind, Provenance
from hermes.video import Frame
from tests.tolerances import close

pytestmark = pytest.mark.model

FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")
QUESTION = "What is the person doing now?"
NEW_TOKENS = 16

family = pytest.mark.parametrize("family", FAMILIES)


@cache
def tiny(family: str, layout: str = "stream") -> Backbone:
    return load_backbone(BackboneConfig(family=f"tiny_{family}", layout=layout))


def make_frames(count: int, fps: float = 2.0, height: int = 72, width: int = 128) -> list[Frame]:
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    return [Frame(image, i / fps, i) for i, image in enumerate(images)]


def encode(backbone: Backbone, frames: list[Frame], cuts: list[int], fps: float) -> tuple[list[Chunk], VideoState]:
    """The prefix and the frames, in chunks that end at ``cuts``."""
    state = VideoState()
    chunks = [backbone.prefix(state)]
    bounds = [0, *cuts, len(frames)]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        chunks.append(backbone.video(frames[start:stop], state, fps=fps))
    return chunks, state


def absolute(chunks: list[Chunk]) -> torch.Tensor:
    """Positions ``[A, n]`` of consecutive chunks."""
    clock, positions = 0, []
    for chunk in chunks:
        positions.append(chunk.positions + clock)
        clock += chunk.advance
    return torch.cat(positions, dim=-1)


# -- chunks ---------------------------------------------------------------------------------------------


@family
@pytest.mark.parametrize("layout", ["stream", "native"])
@pytest.mark.parametrize("cuts", [[2, 4, 6], [2], [6]], ids=str)
def test_a_stream_in_chunks_is_the_stream_in_one(family, layout, cuts):
    backbone, frames = tiny(family, layout), make_frames(7)
    (_, *parts), ended = encode(backbone, frames, cuts, fps=2.0)
    (_, whole), state = encode(backbone, frames, [], fps=2.0)
    close("one_shot", torch.cat([part.embeds for part in parts], dim=1), whole.embeds)
    assert torch.equal(Provenance.cat([part.tokens for part in parts]).table, whole.tokens.table)
    for level, expected in enumerate(whole.deepstack):
        close("one_shot", torch.cat([part.deepstack[level] for part in parts], dim=1), expected)
    assert (ended.frames, ended.groups, ended.next_id) == (state.frames, state.groups, state.next_id)
    if family != "qwen2_5_vl" or layout == "native":
        assert torch.equal(absolute(parts), absolute([whole]))
        assert sum(part.advance for part in parts) == whole.advance == state.advanced


@family
def test_what_a_chunk_says_of_its_tokens(family):
    backbone, frames = tiny(family), make_frames(5)
    (prefix, chunk), state = encode(backbone, frames, [], fps=2.0)
    tokens = chunk.tokens
    assert len(chunk) == len(tokens) == chunk.positions.shape[-1] and chunk.frames == 5 == state.frames
    assert tokens.id.tolist() == list(range(len(prefix), state.next_id))
    group = backbone.frames_per_group
    assert sorted(set(tokens.frame.tolist())) == list(range(0, 5, group))
    assert tokens.time.tolist() == [frame / 2.0 for frame in tokens.frame.tolist()]
    visual = tokens.kind == int(Kind.VISUAL)
    rows, cols = (3, 3) if family == "llava_onevision" else (2, 4)
    for first in range(0, 5, group):
        here = visual & (tokens.frame == first)
        assert (tokens.row[here] * cols + tokens.col[here]).tolist() == list(range(rows * cols))
    assert set(tokens.kind[~visual].tolist()) <= {int(Kind.TIMESTAMP)}
    assert bool(visual.all()) == (family != "qwen3_vl")
    assert not tokens.protected.any()
    # Of Qwen3-VL, with the timestamp of a time of three digits.
    assert backbone.tokens_per_frame(72, 128) == {"llava_onevision": 9, "qwen2_5_vl": 4, "qwen3_vl": 9}[family]
    assert len(chunk) <= state.groups * group * backbone.tokens_per_frame(72, 128)


@family
def test_selecting_tokens_keeps_everything_of_them(family):
    backbone = tiny(family)
    chunk = encode(backbone, make_frames(4), [], fps=2.0)[0][1]
    index = torch.tensor([1, 5, len(chunk) - 1])
    part = chunk.select(index)
    assert torch.equal(part.embeds, chunk.embeds[:, index]) and torch.equal(part.positions, chunk.positions[:, index])
    extra = backbone.prefill_kwargs(part)
    if family == "qwen3_vl":
        assert extra["visual_pos_masks"].tolist() == [(part.tokens.kind == int(Kind.VISUAL)).tolist()]
        assert len(extra["deepstack_visual_embeds"]) == len(chunk.deepstack) == 2
        kept = chunk.deepstack[0][0, index][part.tokens.kind == int(Kind.VISUAL)]
        assert torch.equal(extra["deepstack_visual_embeds"][0], kept)
    else:
        assert extra == {}


def test_llava_stream_positions_count_tokens():
    parts = encode(tiny("llava_onevision"), make_frames(4), [1], fps=0.5)[0]
    assert absolute(parts).tolist() == [list(range(sum(map(len, parts))))]
    assert len(parts[1]) == parts[1].advance == 9


def test_qwen2_5_stream_positions_are_floats_from_the_chunks_start():
    parts = encode(tiny("qwen2_5_vl"), make_frames(7), [4], fps=3.0)[0][1:]
    # Two frames of 1/3 s, two positions a second; never truncated.
    step = 2 / 3.0 * 2
    for part, groups in zip(parts, (2, 2), strict=True):
        time, row, column = part.positions.view(3, groups, 2, 4)
        assert time[:, 0, 0].tolist() == pytest.approx([step * g for g in range(groups)])
        assert row[0].tolist() == [[0] * 4, [1] * 4] and column[1].tolist() == [[0, 1, 2, 3]] * 2
        assert part.advance == 4
    (long,) = encode(tiny("qwen2_5_vl"), make_frames(8), [], fps=1.0)[0][1:]
    assert long.positions[0].max() == 12 and long.advance == 13


@pytest.mark.parametrize("layout", ["stream", "native"])
def test_qwen3_positions_are_the_familys_own(layout):
    backbone = tiny("qwen3_vl", layout)
    chunks = encode(backbone, make_frames(7), [4], fps=2.0)[0]
    kinds = torch.cat([chunk.tokens.kind for chunk in chunks])
    types = (kinds == int(Kind.VISUAL)).long().unsqueeze(0) * 2
    stock, _ = backbone.model.model.get_rope_index(
        torch.zeros_like(types), mm_token_type_ids=types, video_grid_thw=torch.tensor([[4, 4, 8]])
    )
    assert torch.equal(absolute(chunks), stock[:, 0].float())


def test_qwen3_timestamps_are_written_before_each_pair():
    backbone = tiny("qwen3_vl")
    prefix, chunk = encode(backbone, make_frames(3), [], fps=2.0)[0]
    stamps = [backbone.encode(f"<{time} seconds><|vision_start|>") for time in ("0.2", "1.0")]
    kinds, visual, marker = chunk.tokens.kind.tolist(), [int(Kind.VISUAL)] * 8, int(Kind.TIMESTAMP)
    lengths = [stamp.shape[1] for stamp in stamps]
    assert kinds == [marker] * lengths[0] + visual + [marker] * (1 + lengths[1]) + visual + [marker]
    assert torch.equal(chunk.embeds[:, : lengths[0]], backbone.embed(stamps[0]))
    assert torch.equal(chunk.embeds[:, -1:], backbone.embed(backbone.encode("<|vision_end|>")))
    assert not any(level[:, : lengths[0]].any() for level in chunk.deepstack)


# -- native layouts against stock generate --------------------------------------------------------------


def stock_inputs(backbone: Backbone, frames: list[Frame], fps: float) -> dict[str, torch.Tensor]:
    """What transformers' own processor gives for the frames and the question; the pixels are ours."""
    module = {
        "llava_onevision": ("llava_onevision.processing_llava_onevision", "LlavaOnevisionProcessor"),
        "qwen2_5_vl": ("qwen2_5_vl.processing_qwen2_5_vl", "Qwen2_5_VLProcessor"),
        "qwen3_vl": ("qwen3_vl.processing_qwen3_vl", "Qwen3VLProcessor"),
    }[backbone.model.config.model_type]
    processor = getattr(importlib.import_module(f"transformers.models.{module[0]}"), module[1])
    model_type = backbone.model.config.model_type
    inputs: dict[str, torch.Tensor] = {}
    if model_type == "llava_onevision":
        inputs["pixel_values_videos"] = prepare(frames, backbone.recipe).unsqueeze(0)
    else:
        pixels, grid = prepare_patches(frames, backbone.recipe, torch.zeros(1))
        inputs |= {"pixel_values_videos": pixels, "video_grid_thw": grid}
    if model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([2 / fps])
    # A stand-in for `self`: the real one needs torchvision to be built.
    stand_in = SimpleNamespace(
        num_image_tokens=36,
        video_token=backbone.video_marker,
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        _calculate_timestamps=lambda *given: processor._calculate_timestamps(None, *given),
    )
    metadata = SimpleNamespace(fps=fps, frames_indices=[frame.index for frame in frames])
    video = processor.replace_video_token(stand_in, {**inputs, "video_metadata": [metadata]}, 0)
    system = {"role": "system", "content": [{"type": "text", "text": backbone.config.system_prompt}]}
    user = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}
    text = backbone.tokenizer.apply_chat_template([system, user], tokenize=False, add_generation_prompt=True)
    ids = backbone.encode(text.replace(backbone.video_marker, video))
    if model_type != "llava_onevision":
        is_video = ids == backbone.tokenizer.convert_tokens_to_ids(backbone.video_marker)
        inputs["mm_token_type_ids"] = is_video.long() * 2
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


@torch.no_grad()
def answer(backbone: Backbone, chunks: list[Chunk], state: VideoState) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy answer and first logits of the plain decoder, fed chunk by chunk at our explicit positions."""
    cache, clock = DynamicCache(), 0

    def forward(embeds: torch.Tensor, positions: torch.Tensor, **extra: object) -> torch.Tensor:
        position_ids = positions if backbone.axes == 1 else positions.unsqueeze(1)
        hidden = backbone.decoder(
            inputs_embeds=embeds, position_ids=position_ids, past_key_values=cache, use_cache=True, **extra
        ).last_hidden_state
        return backbone.model.lm_head(hidden[:, -1])

    for chunk in chunks:
        forward(chunk.embeds, chunk.positions + clock, **backbone.prefill_kwargs(chunk))
        clock += chunk.advance
    question = backbone.embed(backbone.encode(backbone.question_text(QUESTION)))
    closing = backbone.closing(state)
    tail = question if closing is None else torch.cat([closing, question], dim=1)
    positions = torch.arange(tail.shape[1], dtype=torch.float32) + clock
    logits = first = forward(tail, expand_axes(positions, backbone.axes))
    tokens = []
    clock += tail.shape[1]
    for position in range(clock, clock + NEW_TOKENS):
        tokens.append(logits.argmax(-1))
        if tokens[-1] == backbone.tokenizer.eos_token_id:
            break
        # Behind the question, even where the video's time axis reaches further.
        logits = forward(backbone.embed(tokens[-1].unsqueeze(0)), torch.full((backbone.axes, 1), float(position)))
    return torch.cat(tokens), first[0]


@family
@pytest.mark.parametrize(
    ("count", "cuts", "fps"), [(8, [], 2.0), (7, [2, 6], 2.0), (20, [4, 6], 1.0), (6, [2], 3.0), (8, [4], 8.0)]
)
def test_native_layout_answers_like_stock_generate(family, count, cuts, fps):
    backbone, frames = tiny(family, "native"), make_frames(count, fps)
    inputs = stock_inputs(backbone, frames, fps)
    stock = backbone.model.generate(
        **inputs,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    chunks, state = encode(backbone, frames, cuts, fps)
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()


@family
def test_a_wrong_position_shows(family):
    backbone = tiny(family, "native")
    chunks, state = encode(backbone, make_frames(8), [], 2.0)
    _, right = answer(backbone, chunks, state)
    # All of the video shifted by 7: only its distance to the prefix and the question changes.
    moved = [chunks[0], Chunk(**{**vars(chunks[1]), "positions": chunks[1].positions + 7})]
    _, wrong = answer(backbone, moved, state)
    assert (right - wrong).abs().max() > 0.05 * right.std()


def test_closing_is_the_image_newline_of_the_native_llava():
    backbone = tiny("llava_onevision", "native")
    assert backbone.closing(VideoState()) is None
    newline = backbone.closing(VideoState(frames=1))
    assert newline is not None
    assert torch.equal(newline[0, 0], backbone.model.model.image_newline)
    for other in (tiny("llava_onevision"), tiny("qwen2_5_vl", "native"), tiny("qwen3_vl", "native")):
        assert other.closing(VideoState(frames=1)) is None


# -- the decoder ----------------------------------------------------------------------------------------


@family
@torch.no_grad()
def test_project_gives_the_layers_own_queries_and_keys(family):
    backbone, seen = tiny(family), {}
    hidden = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    query, key = backbone.project(3, hidden)
    assert query.shape[:3] == (2, 4, 5) and key.shape[:3] == (2, backbone.num_kv_heads, 5)
    # At position 0 the rotation is the identity, so that the cache holds the key as projected.
    block, cache = backbone.decoder.layers[3], DynamicCache()
    zeros = torch.zeros(max(backbone.axes, 1), 2, 5) if backbone.axes > 1 else torch.zeros(2, 5)
    cos, sin = backbone.decoder.rotary_emb(hidden, zeros)
    block(hidden, position_embeddings=(cos, sin), past_key_values=cache, attention_mask=None)
    seen = cache.layers[3].keys
    close("attention", key, seen)
    assert query.abs().max() > 1


@family
def test_tiny_attention_is_far_from_uniform(family):
    backbone = tiny(family)
    hidden = backbone.embed(backbone.encode("Describe the current scene in detail: the objects, the actions."))
    query, key = backbone.project(0, hidden)
    repeated = key.repeat_interleave(2, dim=1)
    scores = query @ repeated.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = scores.softmax(-1)
    assert torch.isfinite(scores).all()
    assert weights.max(-1).values.mean() > 4 / hidden.shape[1]


@family
def test_the_seed_decides_the_weights_and_nothing_else_is_touched(family):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    same, other = (load_backbone({"family": f"tiny_{family}", "seed": seed}) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in tiny(family).model.state_dict().items():
        assert torch.equal(weight, same.model.state_dict()[name]), name
    embedding = "model.language_model.embed_tokens.weight"
    assert not torch.equal(same.model.state_dict()[embedding], other.model.state_dict()[embedding])
    assert not any(parameter.requires_grad for parameter in same.model.parameters())
    assert not same.model.training


# -- prompts --------------------------------------------------------------------------------------------

# In the manner of the published templates: content in parts; text only; a default system turn.
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}" + PARTS


@pytest.mark.parametrize(
    ("template", "system", "prefix", "before", "after"),
    [
        (PARTS, None, "<|im_start|>user <video>", "\n", "<|im_end|><|im_start|>assistant\n"),
        (
            PARTS,
            "Look.",
            "<|im_start|>system \nLook.<|im_end|><|im_start|>user <video>",
            "\n",
            "<|im_end|><|im_start|>assistant\n",
        ),
        (TEXT_ONLY, None, "<|im_start|>user\n<video>", "\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (
            DEFAULT_SYSTEM,
            None,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user <video>",
            "\n",
            "<|im_end|><|im_start|>assistant\n",
        ),
    ],
    ids=["parts", "system", "text-only", "default-system"],
)
def test_a_template_is_cut_at_the_video_and_the_question(template, system, prefix, before, after):
    turn = split_template(tiny("llava_onevision").tokenizer, [template], system, "<video>")
    assert (turn.prefix + "<video>", turn.before, turn.after) == (prefix, before, after)


def test_templates_are_tried_in_turn():
    tokenizer = tiny("qwen2_5_vl").tokenizer
    broken, blind = "{{ messages[7].role.x }}", "{% for m in messages %}{{ m.role }}{% endfor %}"
    turn = split_template(tokenizer, [broken, blind, chatml("<video>")], None, "<video>")
    assert turn.prefix == "<|im_start|>user\n"
    with pytest.raises(InputError, match="no chat template.*'<video>'"):
        split_template(tokenizer, [broken, blind], None, "<video>")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_only_the_native_layout_keeps_the_templates_vision_markers(family):
    stream, native = tiny(family), tiny(family, "native")
    assert native.prefix_text() == stream.prefix_text() + "<|vision_start|>"
    assert native.question_text("Why?", "(A") == "<|vision_end|>" + stream.question_text("Why?", "(A")
    assert stream.question_text("Why?", "(A") == "Why?<|im_end|>\n<|im_start|>assistant\n(A"
    prefix = stream.prefix(VideoState())
    assert stream.decode(stream.encode("<|im_start|>Why?")[0]) == "Why?"
    assert set(prefix.tokens.kind.tolist()) == {int(Kind.PREFIX)} and prefix.advance == len(prefix)


# -- loading --------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A tiny checkpoint folder; of LLaVA-OneVision, or of the family the test is about."""
    name = request.node.callspec.params.get("family", FAMILIES[0]) if hasattr(request.node, "callspec") else FAMILIES[0]
    save_checkpoint(tiny(name), tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: object) -> None:
    """Change a JSON file; None removes a key."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@family
@pytest.mark.parametrize("layout", ["stream", "native"])
def test_a_saved_checkpoint_is_found_by_its_model_type_and_is_the_same(family, layout, checkpoint, capfd):
    made, frames = tiny(family, layout), make_frames(4)
    read = load_backbone({"checkpoint": str(checkpoint), "layout": layout})
    assert capfd.readouterr() == ("", "")
    assert type(read) is type(made).__mro__[2]
    assert read.recipe == made.recipe and read.turn == made.turn
    expected, got = encode(made, frames, [], 2.0)[0], encode(read, frames, [], 2.0)[0]
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours.embeds, theirs.embeds) and torch.equal(ours.positions, theirs.positions)
    tokens, logits = answer(read, got, VideoState(frames=4))
    wanted, reference = answer(made, expected, VideoState(frames=4))
    close("one_shot", logits, reference)
    assert tokens.tolist() == wanted.tolist()
    assert read.decode(tokens) == made.decode(wanted)


def test_a_checkpoint_is_named_as_on_the_command_line(checkpoint, monkeypatch):
    assert type(load_backbone(str(checkpoint))).__name__ == "LlavaOnevision"
    monkeypatch.chdir(checkpoint.parent)
    assert load_backbone("model").fps == 0.5
    named = load_backbone(BackboneConfig(checkpoint="./model", family="backbones.tiny:LlavaOnevision", fps=4))
    assert named.fps == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(checkpoint, dtype):
    backbone = load_backbone({"checkpoint": str(checkpoint), "dtype": dtype})
    assert backbone.dtype == getattr(torch, dtype)
    chunk = backbone.video(make_frames(2), VideoState(), fps=1.0)
    assert chunk.embeds.dtype == backbone.dtype and chunk.positions.dtype == torch.float32
    # On a CPU, "auto" is float32 whatever the checkpoint says.
    edit(checkpoint / "config.json", dtype=dtype)
    assert load_backbone(str(checkpoint)).dtype == torch.float32


def test_the_processors_chat_template_precedes_the_tokenizers(checkpoint):
    (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": PARTS}))
    assert load_backbone({"checkpoint": str(checkpoint), "system_prompt": None}).prefix_text() == "<|im_start|>user "


@pytest.mark.parametrize("family", ["qwen2_5_vl"])
def test_where_preprocessor_settings_are_found(family, checkpoint):
    limits = {"shortest_edge": 784, "longest_edge": 4 * 784}
    nested = {"video_processor": {"size": limits, "patch_size": 14}}
    (checkpoint / "processor_config.json").write_text(json.dumps(nested))
    assert load_backbone(str(checkpoint)).recipe.size == limits
    (checkpoint / "processor_config.json").unlink()
    # The older place.
    settings = checkpoint / "video_preprocessor_config.json"
    (checkpoint / "video_processor").mkdir()
    settings.rename(checkpoint / "video_processor" / "preprocessor_config.json")
    assert load_backbone(str(checkpoint)).recipe == tiny(family).recipe
    # An image processor's normalisation holds for video, its pixel limits do not.
    (checkpoint / "video_processor" / "preprocessor_config.json").rename(checkpoint / "preprocessor_config.json")
    edit(checkpoint / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], min_pixels=3136, max_pixels=12845056)
    recipe = load_backbone(str(checkpoint)).recipe
    assert recipe.mean == (0.1, 0.2, 0.3)
    assert recipe.size == {"shortest_edge": 128 * 784, "longest_edge": 768 * 784}
    wide = load_backbone({"checkpoint": str(checkpoint), "max_pixels": 200704})
    assert wide.tokens_per_frame(1080, 1920) == 12 * 21 / 2


def test_the_limits_of_a_qwen3_frame():
    from backbones.qwen3_vl import Qwen3VL

    model = SimpleNamespace()
    published = Qwen3VL(model, None, BackboneConfig(), preprocessor={"size": {"shortest_edge": 4096, "longest_edge": 25165824}})
    assert published.recipe.size == {"shortest_edge": 2048, "longest_edge": 768 * 32 * 32}
    assert published.recipe.target(360, 640) == (352, 640)
    assert published.recipe.target(2160, 3840) == (640, 1152)


def test_every_shipped_configuration_names_its_family():
    from hermes.config import build, compose
    from hermes.loading import _Run, backbone_fallback

    names = available("backbone")
    assert len(names) == 14
    for name in names:
        config = compose({"backbone": name}, [], _Run, fallbacks={"backbone": backbone_fallback}).backbone
        assert name.removeprefix("tiny_").startswith(config.family.removeprefix("tiny_"))
        assert bool(config.checkpoint) != name.startswith("tiny_")
        assert config.fps == {"llava": 0.5, "qwen2": 1, "qwen3": 2}[config.family.removeprefix("tiny_")[:5]]
    assert build(BackboneConfig, {}).layout == "stream"


# -- errors ---------------------------------------------------------------------------------------------


def test_no_such_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"'org/model' is not a local folder.*hf download org/model --local-dir"):
        load_backbone("org/model")
    with pytest.raises(InputError, match="is not a folder"):
        load_backbone(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="has no config.json"):
        load_backbone(str(tmp_path))
    with pytest.raises(InputError, match="cannot be fetched"):
        load_backbone("a/b/c")
    with pytest.raises(SettingError, match="Did you mean 'llava_onevision_7b'"):
        load_backbone("llava_onevison_7b")
    with pytest.raises(SettingError, match=r"backbone\.checkpoint"):
        load_backbone({})


def test_checkpoints_of_other_kinds(checkpoint):
    config = checkpoint / "config.json"
    edit(config, model_type="qwen9_vl")
    with pytest.raises(UnsupportedModelError, match=r"'qwen9_vl'.*qwen2_5_vl.*subclass hermes\.backbone\.Backbone"):
        load_backbone(str(checkpoint))
    edit(config, model_type="qwen2", vision_config=None)
    with pytest.raises(UnsupportedModelError, match="text-only.*'qwen2'.*Supported: .*llava_onevision"):
        load_backbone(str(checkpoint))
    config.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_backbone(str(checkpoint))


def test_families_given_by_hand(checkpoint):
    with pytest.raises(SettingError, match=r"backbone\.family.*Did you mean 'qwen2_5_vl'"):
        load_backbone({"checkpoint": str(checkpoint), "family": "qwen25_vl"})
    with pytest.raises(SettingError, match=r"backbone\.family.*a subclass of"):
        load_backbone({"checkpoint": str(checkpoint), "family": "pathlib.Path"})


def test_decoders_that_cannot_stream(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    text = config["text_config"]
    kinds = ["full_attention"] * 5 + ["sliding_attention"] * 5
    sliding = {**text, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 5, "layer_types": kinds}
    edit(checkpoint / "config.json", text_config=sliding)
    with pytest.raises(UnsupportedModelError, match="sliding-window"):
        load_backbone(str(checkpoint))
    rope = {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}
    edit(checkpoint / "config.json", text_config={**text, "rope_parameters": rope})
    with pytest.raises(UnsupportedModelError, match="'dynamic' RoPE"):
        load_backbone(str(checkpoint))


def test_broken_checkpoints(checkpoint):
    from safetensors.torch import load_file, save_file

    weights = checkpoint / "model.safetensors"
    kept = {name: w for name, w in load_file(weights).items() if not name.endswith("image_newline")}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights, such as .*image_newline"):
        load_backbone(str(checkpoint))
    weights.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(str(checkpoint))
    weights.unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(str(checkpoint))


def test_bad_settings(checkpoint):
    with pytest.raises(SettingError, match=r"backbone\.device: got 'gpu'"):
        load_backbone({"checkpoint": str(checkpoint), "device": "gpu"})
    with pytest.raises(SettingError, match=r"backbone\.device: got 'cuda:99'.*No such GPU"):
        load_backbone({"checkpoint": str(checkpoint), "device": "cuda:99"})
    with pytest.raises(SettingError, match=r"backbone\.layout"):
        load_backbone({"checkpoint": str(checkpoint), "layout": "natve"})
    with pytest.raises(SettingError, match=r"backbone\.max_pixels.*always 42x42"):
        _ = load_backbone({"checkpoint": str(checkpoint), "max_pixels": 4000}).recipe
