"""Damaged and foreign files of saved streams: a named error, or the stream as it was; never anything else."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.errors import InputError
from hermes.policies.h2o import H2O
from hermes.policies.rekv import Rekv
from hermes.session.config import run_config
from hermes.session.opening import session_from
from hermes.session.session import StreamSession
from tests.session.test_resuming import equal, state_of
from tests.session.test_saved_before import SAVED
from tests.session.test_session import SHORT, frames

pytestmark = pytest.mark.model
ODD: tuple[Any, ...] = (
    None, True, -1, 2**31, 2**70, 10**400, 1.5, float("inf"), float("nan"), "", "x", "${oc.env:HOME}",
    "\ud800", [], {}, [[]], {"name": "os.system"}, "../../etc/passwd", [1, 2, 3], "A" * 5000,
)  # fmt: skip


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig(family="tiny_llava_onevision"))


class Case:
    """A saved stream, and a session that may take it up or refuse it."""

    def __init__(self, folder: Path, session: StreamSession, other: Path, checked: bool) -> None:
        self.folder, self.session, self.other, self.checked = folder, session, other, checked
        session.resume(folder)
        self.whole = state_of(session)
        session.reset()
        session.feed(frames(0, 6))
        self.before = state_of(session)

    def outcome(self, damage: Callable[[Path], None], tmp_path: Path) -> str:
        """What became of a damaged copy: the error's text, or an empty one where it was taken up."""
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.folder, copy)
        damage(copy)
        told = ""
        try:
            self.session.resume(copy)
        except InputError as error:
            told = str(error)
        if told:
            assert equal(self.before, state_of(self.session)), told
            return told
        found = state_of(self.session)
        del found["objects"], found["stats"]
        if self.checked:
            assert equal(found, {key: self.whole[key] for key in found})
        # Whatever it is, it can be gone on with.
        self.session.feed(frames(0, 4))
        self.session.ask("And?")
        self.session.reset()
        self.session.feed(frames(0, 6))
        self.before = state_of(self.session)
        return ""


@pytest.fixture(scope="module", params=["h2o", "rekv", "earlier"])
def case(request: pytest.FixtureRequest, backbone: Backbone, tmp_path_factory: Any) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "earlier":
        for path in (SAVED / "h2o").glob("*.[js]*"):
            if path.name != "expected.json":
                shutil.copy(path, folder)
        settings = json.loads((SAVED / "h2o" / "expected.json").read_text())["settings"]
        return Case(folder, session_from(run_config(settings)), SAVED / "hermes", checked=False)

    def made(count: int) -> StreamSession:
        policy = H2O(budget=24) if request.param == "h2o" else Rekv(budget=24)
        one = StreamSession(backbone, policy, chunk_frames=4, fps=1, generation=SHORT)
        one.feed(frames(0, count))
        return one

    one, other = made(12), tmp_path_factory.mktemp("other")
    one.ask("What now?", ["a", "b"])
    one.save(folder)
    made(20).save(other)
    return Case(folder, made(0), other, checked=True)


def mutated(draw: random.Random, case: Case) -> tuple[str, Callable[[Path], None]]:
    """A way to damage a folder, and its name."""
    name = draw.choice([path.name for path in sorted(case.folder.iterdir())])
    raw = (case.folder / name).read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little") if name.endswith("safetensors") else len(raw)
    kind = draw.choice(
        ["flip", "head", "cut", "grow", "swap", "edit", "zero", "gone", "link", "fifo", "folder"]
    )
    at, bit = draw.randrange(len(raw)), 1 << draw.randrange(8)
    place = draw.randrange(header)

    def damage(copy: Path) -> None:
        path = copy / name
        if kind in ("flip", "head"):
            spot = at if kind == "flip" else place
            path.write_bytes(raw[:spot] + bytes([raw[spot] ^ bit]) + raw[spot + 1 :])
        elif kind == "cut":
            path.write_bytes(raw[:at])
        elif kind == "grow":
            path.write_bytes(raw + raw[at : at + 64])
        elif kind == "swap":
            shutil.copy(case.other / name, path)
        elif kind == "edit":
            edit(draw, path, raw)
        elif kind == "zero":
            path.write_bytes(raw[:at] + bytes(len(raw) - at))
        else:
            path.unlink()
            if kind == "link":
                path.symlink_to(case.folder / name)
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "folder":
                path.mkdir()

    return f"{kind} {name}", damage


def edit(draw: random.Random, path: Path, raw: bytes) -> None:
    """Change one field of the record, or of the header of tensors, to something odd."""
    size = int.from_bytes(raw[:8], "little") if path.suffix == ".safetensors" else 0
    text = raw[8 : 8 + size].decode() if size else raw.decode()
    if draw.random() < 0.1:
        changed = "[" * 100_000 if draw.random() < 0.5 else text.replace(":", ":" + "[" * 5000, 1)
    else:
        content = json.loads(text)
        at, steps = content, draw.randrange(1, 5)
        while True:
            key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
            steps -= 1
            if not steps or not at[key] or not isinstance(at[key], (dict, list)):
                break
            at = at[key]
        if draw.random() < 0.2:
            del at[key]
        else:
            at[key] = draw.choice(ODD)
        changed = json.dumps(content)
    if size:
        head = changed.encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + raw[8 + size :])
    else:
        path.write_text(changed)


def fuzz(case: Case, seeds: range, tmp_path: Path) -> None:
    taken = 0
    for seed in seeds:
        name, damage = mutated(random.Random(seed), case)
        told = case.outcome(damage, tmp_path)
        taken += not told
        assert not told or str(tmp_path / "copy") in told, (seed, name, told)
    # What has checksums is never taken up when it was changed.
    assert taken == 0 or not case.checked


def test_no_damage_is_taken_up_or_ends_in_a_bare_error(case: Case, tmp_path: Path) -> None:
    # Those that an earlier version saved have no checksum: most are taken up, and gone on with.
    fuzz(case, range(60 if case.checked else 12), tmp_path)


@pytest.mark.thorough
def test_a_thousand_ways_to_damage_a_saved_stream(case: Case, tmp_path: Path) -> None:
    fuzz(case, range(1000, 2000), tmp_path)


def sealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record and give it the checksum that it then has: what nobody does by accident."""
    from hermes.memory.storage import _sealed

    path = folder / "memory.json"
    record = json.loads(path.read_text())
    change(record)
    del record["checksum"]
    path.write_text(_sealed(record))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["layers"][0].update(prefix=-1), "layers[0].prefix"),
        (lambda r: r["layers"].pop(), "backbone.layers"),
        (lambda r: r.update(frames_seen="many"), "frames_seen"),
        (lambda r: r["video"].update(next_id=None), "video.next_id"),
        (lambda r: r["history"].append(5), "history[1]"),
        (lambda r: r["history"][0].update(question=["a"]), "history[0].question"),
        (lambda r: r.update(settings=[]), "settings"),
        (lambda r: r.update(files={}), "files"),
        (lambda r: r["files"]["memory"].update(file="/etc/passwd"), "files.memory.file"),
        (lambda r: r["files"]["memory"].update(file="../other/memory.safetensors"), "files.memory.file"),
        (lambda r: r["files"]["policy"].update(file=r["files"]["memory"]["file"]), "bytes"),
        (lambda r: r["settings"]["policy"].update(name="os.system"), "policy"),
        (lambda r: r["settings"]["policy"].update(budget="${oc.env:HOME}"), "policy.budget"),
        (lambda r: r.update(next_summary_id=10**30), "next_summary_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_record_that_was_forged_is_refused_by_its_field(
    change: Callable[[Any], object], told: str, case: Case, tmp_path: Path
) -> None:
    if not case.checked:
        pytest.skip("an earlier version's record has no checksum")
    error = case.outcome(lambda copy: sealed(copy, change), tmp_path)
    assert told in error


def test_nothing_in_a_saved_stream_runs_or_reads_elsewhere(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No code is imported by a name in a file, and no link is followed."""
    import importlib

    secret = tmp_path / "secret"
    shutil.copytree(case.folder, secret)
    imported: list[str] = []
    real = importlib.import_module

    def watched(name: str, package: str | None = None) -> Any:
        imported.append(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", watched)
    for name in [path.name for path in case.folder.iterdir()]:

        def linked(copy: Path, name: str = name) -> None:
            (copy / name).unlink()
            (copy / name).symlink_to(secret / name)

        assert "link" in case.outcome(linked, tmp_path)
    if case.checked:
        evil = {"name": "evil.module.Policy", "inner": {"name": "evil:run"}}
        assert case.outcome(lambda copy: sealed(copy, lambda r: r["settings"].update(policy=evil)), tmp_path)
    assert not any("evil" in name for name in imported)


def test_a_header_that_lies_about_its_size_takes_no_memory(case: Case, tmp_path: Path) -> None:
    taken: list[int] = []
    real = torch.empty

    def counted(*size: Any, **options: Any) -> torch.Tensor:
        taken.append(int(size[0]) if isinstance(size[0], int) else 0)
        return real(*size, **options)

    def lie(copy: Path) -> None:
        path = next(copy.glob("memory*.safetensors"))
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        entry = header["0.keys"]
        entry["shape"] = [2**40, 2**20]
        entry["data_offsets"] = [entry["data_offsets"][0], entry["data_offsets"][0] + 2**62]
        head = json.dumps(header).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + raw[8 + size :])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", counted)
        assert "damaged" in case.outcome(lie, tmp_path)
    assert max(taken, default=0) < 2**22
