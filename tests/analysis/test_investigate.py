"""`hermes investigate`: sampling, resuming, what the folder holds, and the tiers as a policy; knockouts."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hermes.analysis.findings import layers_shown, paper_tiers
from hermes.analysis.settings import default_folder, investigate_config
from hermes.analysis.study import Study, collect, sample_questions
from hermes.data.benchmark import Benchmark
from hermes.data.clips import Clip, TimedQuestion
from hermes.errors import InputError, SettingError
from hermes.policies.hermes import Hermes
from hermes.policies.knockout import Knockout
from hermes.policy import Recall
from hermes.session.session import StreamSession
from tests.support.command_line import hermes
from tests.support.probe_cases import OTHER, frames
from tests.support.references import FAMILIES, cloned, identical, tiny

TINY = (
    *("data.streams=4", "data.world.length=14", "data.late=0.8", "per_category=3", "policy.budget=24"),
    *("stream.chunk_frames=4", "generation.max_new_tokens=1", "threads=1"),
)


# -- sampling ---------------------------------------------------------------------------------------------


class Listed(Benchmark):
    """As many questions of each category as it is told, five a video."""

    def __init__(self, **counts: int) -> None:
        names = [name for name, count in counts.items() for _ in range(count)]
        self.clips = [names[at : at + 5] for at in range(0, len(names), 5)]

    def __len__(self):
        return len(self.clips)

    def clip(self, index):
        asked = (TimedQuestion("What?", "", task=name) for name in self.clips[index])
        return Clip("", tuple(asked))

    def frames(self, index, video, fps):
        raise NotImplementedError


@pytest.mark.unit
def test_questions_are_sampled_of_each_category():
    data = Listed(short=40, medium=33, long=7)
    chosen = sample_questions(data, 10)
    names = [data.clips[clip][number] for clip, numbers in chosen.items() for number in numbers]
    assert {name: names.count(name) for name in set(names)} == {"short": 10, "medium": 10, "long": 7}
    assert list(chosen) == sorted(chosen)
    assert all(numbers == sorted(set(numbers)) for numbers in chosen.values())
    assert sample_questions(data, 10) == chosen
    assert sample_questions(data, 10, seed=1) != chosen
    # A category's sample does not hang on what else is sampled.
    alone = sample_questions(data, 10, ["short"])
    assert alone == {
        clip: [n for n in numbers if data.clips[clip][n] == "short"]
        for clip, numbers in chosen.items()
        if any(data.clips[clip][n] == "short" for n in numbers)
    }
    with pytest.raises(SettingError, match=r"categories: got 'shrt'.*Did you mean 'short'"):
        sample_questions(data, 10, ["shrt"])


@pytest.mark.unit
def test_every_question_is_as_likely():
    data = Listed(only=20)
    counts = np.zeros(20)
    for seed in range(400):
        for clip, numbers in sample_questions(data, 5, seed=seed).items():
            counts[[5 * clip + number for number in numbers]] += 1
    # Binomial with mean 100 and deviation 8.7.
    assert counts.sum() == 2000
    assert (np.abs(counts - 100) < 45).all()


# -- collecting -------------------------------------------------------------------------------------------


def state(study: Study) -> list[np.ndarray]:
    overall = study.overall()
    return [
        np.array(study.measures),
        np.array(study.pairs),
        *(part for running in overall.by.values() for part in running.parts()),
    ]


@pytest.mark.model
def test_an_interrupted_run_comes_to_the_same(tmp_path):
    config = investigate_config([*TINY, "policy=hermes", "per_head=true"])
    whole = collect(config, tmp_path / "whole")
    assert len(whole.asked) == len({(a.clip, a.number) for a in whole.asked}) >= 6
    assert np.array(whole.heads).shape[:3] == (len(whole.asked), 10, 2)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(config, tmp_path / "broken", watcher=stop)
    left = Study.load(tmp_path / "broken")
    assert left is not None
    assert len(left.clips) == 2
    again = collect(config, tmp_path / "broken")
    assert again.asked == whole.asked
    for ours, theirs in zip(state(again), state(whole), strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)
    # Done: neither a model nor a video is opened again.
    broken = replace(config, backbone=replace(config.backbone, checkpoint="/no/such/folder"))
    with pytest.raises(InputError):
        collect(broken, tmp_path / "broken")
    later = collect(config, tmp_path / "broken", watcher=stop)
    assert later.asked == whole.asked


@pytest.mark.model
def test_a_folder_of_another_run_is_refused(tmp_path):
    one = ["data.streams=1", "per_category=1"]
    collect(investigate_config([*TINY, *one]), tmp_path)
    with pytest.raises(SettingError, match="another config_hash"):
        collect(investigate_config([*TINY, *one, "policy.budget=20"]), tmp_path)
    (tmp_path / "state.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not the state of an investigation"):
        collect(investigate_config([*TINY, *one]), tmp_path)


@pytest.mark.model
def test_guidance_prompts_and_any_text_are_watched_instead(tmp_path):
    one = [*TINY, "data.streams=1", "per_category=1"]
    found = {
        name: collect(investigate_config([*one, f"queries={name}"]), tmp_path / name).measures[0]
        for name in ("question", "local", "global", "What now?")
    }
    local = Hermes().prompts.render("local")
    same = collect(replace(investigate_config(one), queries=local), tmp_path / "same")
    assert np.array_equal(found["local"], same.measures[0], equal_nan=True)
    values = list(found.values())
    assert all(not np.array_equal(a[:, 1], b[:, 1]) for a, b in pairwise(values))


@pytest.mark.model
def test_frames_that_are_encoded_at_the_question_are_watched_too(tmp_path):
    recent = ["policy=recent", "policy.budget=24", "data.streams=1", "per_category=1"]
    study = collect(investigate_config([*TINY, *recent]), tmp_path)
    assert study.tokens_per_frame == 4
    assert study.overall().by["index"].count.shape == (10, 24)


# -- the command ------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.model
def test_the_folder_holds_everything_and_its_tiers_run(tmp_path):
    folder = tmp_path / "run"
    result = hermes("investigate", *TINY, "per_head=true", f"output={folder}")
    assert result.code == 0, result.err
    assert str(folder / "report.md") in result.out
    names = ("profiles", "ages", "patches", "depth", "categories")
    assert all((folder / "plots" / f"{name}.png").stat().st_size > 5_000 for name in names)
    study = Study.load(folder)
    assert study is not None
    layers = {(int(row["layer"]), row["measure"]): row for row in rows(folder / "tables" / "layers.csv")}
    newest = [one.newest_share for one in study.layer(4)]
    assert float(layers[4, "newest_share"]["mean"]) == pytest.approx(np.mean(newest), rel=1e-4)
    assert int(layers[4, "newest_share"]["questions"]) == len(newest)
    categories = {row["category"] for row in rows(folder / "tables" / "categories.csv")}
    assert categories == {asked.category for asked in study.asked} == set(study.profiles)
    assert {row["head"] for row in rows(folder / "tables" / "heads.csv")} == {"0", "1"}
    held = [row for row in rows(folder / "tables" / "profile_index.csv") if row["layer"] == "0"]
    assert len(held) == 24
    assert held[0]["questions"] == str(len(study.asked))
    page = (folder / "report.md").read_text()
    assert f"{len(study.asked)} questions in {len(set(study.videos()))} videos" in page
    assert all(f"(plots/{name}.png)" in page for name in names)
    for word in ("config_hash", "attention", "torch", "10/60/30", "| 9 |"):
        assert word in page
    spec = yaml.safe_load((folder / "tiers.yaml").read_text())
    assert sum(tier["share"] for tier in spec["tiers"].values()) == pytest.approx(1)
    small = ("data.streams=1", "data.questions=3", "data.world.length=14", "policy.budget=20", "threads=1")
    done = hermes("eval", f"policy={folder}/tiers.yaml", *small, f"output={tmp_path / 'eval'}", "--json")
    assert done.code == 0, done.err
    assert done.records[0]["overall"]["n"] == 3
    # Again: nothing is streamed, and the same is written.
    assert hermes("investigate", *TINY, "per_head=true", f"output={folder}").code == 0
    assert (folder / "report.md").read_text() == page


@pytest.mark.model
def test_windows_have_folders_of_their_own_and_a_page(tmp_path):
    folder = tmp_path / "run"
    one = ("data.streams=1", "per_category=2", "windows=[16, 24]", f"output={folder}")
    result = hermes("investigate", *TINY, *one)
    assert result.code == 0, result.err
    page = (folder / "report.md").read_text()
    assert (folder / "plots" / "windows.png").stat().st_size > 5_000
    for window in (16, 24):
        assert f"[{window}](window_{window}/report.md)" in page
        study = Study.load(folder / f"window_{window}")
        assert study is not None
        assert study.overall().by["index"].count.shape == (10, window)


@pytest.mark.unit
def test_settings_in_the_help_are_real():
    text = hermes("investigate", "--help").out
    named = re.findall(r"^\s*(\w+)=(.+?) {2,}", text[: text.index("Examples")], flags=re.MULTILINE)
    assert len(named) == 5
    values = {"categories": "[order]"}
    assert investigate_config([f"{key}={values.get(key, value)}" for key, value in named]).per_category == 100


@pytest.mark.unit
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["words"], "'words' is no setting"),
        (["per_categry=3"], "Did you mean 'per_category'?"),
        (["windows=[0]"], "windows"),
        (["experiment=fig22"], "Did you mean 'fig2'?"),
    ],
)
def test_wrong_settings_are_named(argv, said):
    result = hermes("investigate", *argv)
    assert result.code == 2
    assert said in result.err


@pytest.mark.unit
def test_shipped_experiments_are_those_of_the_paper():
    videomme = ["data.annotations=a.json", "data.videos=v"]
    fig2, fig6 = (investigate_config([f"experiment={name}", *videomme]) for name in ("fig2", "fig6"))
    assert (fig2.policy.budget, fig2.per_category, fig2.stream.chunk_frames) == (6000, 100, 8)
    assert (fig2.video.fps, fig2.windows, fig6.windows) == (0.5, [], [4000, 6000, 10000])
    assert type(fig2.policy.reindexing).__name__ == "Eager"
    small, three = (investigate_config([f"experiment={name}_embedded"]) for name in ("fig2", "fig6"))
    # As many frames as the paper's windows hold, of 4 tokens and of 196.
    assert small.policy.budget // 4 == 6000 // 196
    assert [window // 4 for window in three.windows] == [20, 30, 50]
    assert default_folder(small) != default_folder(three)


@pytest.mark.unit
def test_the_papers_layers_and_tiers_at_other_depths():
    assert layers_shown(28) == {"shallow": 0, "middle": 8, "deep": 26}
    assert layers_shown(1) == {"shallow": 0, "middle": 0, "deep": 0}
    for layers in (1, 10, 28, 33):
        ours = Hermes().boundaries(layers)
        assert list(paper_tiers(layers).values()) == list(ours.values())


@pytest.mark.model
def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "investigation.md").read_text()
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})
    shares = [float(line) for line in capsys.readouterr().out.split()]
    assert len(shares) == 10
    assert all(0 <= share <= 1 for share in shares)


# -- knockouts --------------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("keep", ["newest_frame", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tier_forgets_at_the_question_alone(family, keep):
    backbone = tiny(family)
    sessions = {
        name: StreamSession(backbone, policy, chunk_frames=4)
        for name, policy in {
            "hermes": Hermes(budget=60),
            "knockout": Knockout(budget=60, tier="working", layers=[9], keep=keep),
        }.items()
    }
    for session in sessions.values():
        session.feed(frames(14))
        session.flush()
    one, other = (session.memory for session in sessions.values())
    assert identical(one, cloned(other))
    session = sessions["knockout"]
    fork = session.memory.fork()
    session.policy.recall(Recall(fork, OTHER, lambda piece: None, session.observer))
    newest = int(session.memory[0].origin.frame.max())
    for layer, before in zip(fork, session.memory, strict=True):
        if layer.index in {1, 2, 3, 4, 5, 6, 9}:
            ids = before.origin.id[0, 0]
            wanted = before.origin.frame[0, 0] == (newest if keep == "newest_frame" else -2)
            wanted[: fork.prefix] = True
            assert torch.equal(layer.origin.id[0, 0], ids[wanted])
            assert torch.equal(layer.keys, before.keys[:, :, wanted])
        else:
            assert layer.keys is before.keys
    before = cloned(session.memory)
    answers = [s.ask(OTHER, max_new_tokens=6).ids.tolist() for s in sessions.values()]
    assert answers[0] != answers[1]
    assert identical(session.memory, before)


@pytest.mark.model
def test_knocking_out_nothing_changes_nothing():
    backbone = tiny("llava_onevision")
    answers = []
    for policy in (Hermes(budget=60), Knockout(budget=60, tier="")):
        session = StreamSession(backbone, policy, chunk_frames=4)
        session.feed(frames(12))
        answers.append(session.ask(OTHER, max_new_tokens=6).ids.tolist())
    assert answers[0] == answers[1]


@pytest.mark.unit
def test_a_knockout_of_what_there_is_not():
    with pytest.raises(SettingError, match=r"tier: got 'long'.*sensory, working, long_term"):
        Knockout(tier="long")
    with pytest.raises(SettingError, match="layers below 10"):
        StreamSession(tiny("llava_onevision"), Knockout(budget=60, layers=[10]), chunk_frames=4)
    assert Knockout().tiers == Hermes().tiers
