"""What a command line may say: words like settings, hints, settings shown, and what a terminal obeys."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.table import Table
from rich.text import Text

from hermes.cli.app import report
from hermes.cli.arguments import as_setting, split_settings, split_words, spread_choices
from hermes.cli.output import err, note, out, prose
from hermes.errors import InputError, SettingError
from hermes.pages.text import clean
from hermes.registry import registry
from hermes.samples import CLIP
from tests.support.command_line import FAST, hermes

# -- words and settings -----------------------------------------------------------------------------

WORDS = {
    "a file": ("a=b.mp4", True),
    "a question": ("x=5, is it shown?", True),
    "an equation": ("x=5", True),
    "a question with a setting's name": ("seed=5, is that so?", True),
    "a question with a policy": ("policy=fifo is what?", True),
    "after a blank": (" policy=fifo", True),
    "empty": ("", True),
    "a sign": ("=", True),
    "lines": ("a=b\nc=d", True),
    "a setting": ("policy=fifo", False),
    "a text setting": ("policy.prompts.local_text=What now?", False),
    "a tree": ("policy.tiers={a: {share: 1}}", False),
    "a list": ("callbacks={a: b, c: d}", False),
    "a removal": ("~policy.tiers.sensory", False),
    "mistyped": ("polcy=fifo", False),
    "of another command": ("output=FILE", False),
}


@pytest.mark.parametrize("name", WORDS)
def test_what_is_a_word_and_what_a_setting(name: str) -> None:
    word, plain = WORDS[name]
    assert split_words([word]) == (([word], []) if plain else ([], [word]))


def test_all_after_two_dashes_are_words() -> None:
    argv = spread_choices(["ask", "--json", "--", "-a.mp4", "policy=fifo", "~x"])
    assert split_words(argv[3:]) == (["-a.mp4", "policy=fifo", "~x"], [])
    assert spread_choices(["report", "--", "a=b"]) == ["report", "--", "a=b"]


def test_a_file_of_that_name_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("polic=y.mp4").touch()
    assert split_words(["polic=y.mp4"]) == (["polic=y.mp4"], [])
    Path("FILE").touch()
    with pytest.raises(SettingError, match="output: got 'FILE'; allowed: a folder"):
        split_settings(["output=FILE"])


@pytest.mark.model
def test_odd_names_and_questions_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.mp4", "-dash.mp4"):
        shutil.copyfile(CLIP, name)
    fast = ("--at", "4", "--json", *FAST)
    for words in (
        ("a=b.mp4", "x=5, is it shown?", *fast),
        (*fast, "--", "-dash.mp4", "policy=fifo"),
        ("./-dash.mp4", "two\nlines \x1b[31m?", *fast),
    ):
        (record,) = hermes("ask", *words).records
        assert record["question"] in words


REFUSED = {
    "no video": (["ask", "  ", "q"], "no VIDEO is given"),
    "a dash": (["ask", "-a.mp4", "q"], r"\./-NAME"),
    "an option": (["ask", "sample", "--policy", "fifo", "q"], "without dashes: policy=fifo"),
    "an option with a sign": (["ask", "sample", "--policy.budget=9", "q"], "without dashes: policy.budget=9"),
    "an option of a tail": (["eval", "--budget", "9"], "without dashes: policy.budget=9"),
    "an unknown option": (["eval", "--lout"], "No such option: --lout"),
    "20 digits": (["validate", "seed=" + "9" * 20], "seed: got 9{20}; .*does not fit 64 bits"),
    "5000 digits": (["validate", "seed=" + "9" * 5000], r"seed: got '9+\.\.\. \(5002 characters\)"),
    "a root": (["validate", "budget=64"], "Did you mean 'policy.budget'"),
    "a tail": (["validate", "working.scorer=random"], "Did you mean 'policy.tiers.working.scorer'"),
    "a tier": (["validate", "policy.tiers.workin.scorer=random"], "Did you mean 'working'"),
    "another group": (["validate", "video.budget=3"], "Did you mean 'policy.budget'"),
    "the environment": (["validate", "backbone.revision=${oc.env:HOME}"], "environment=true"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_meant_is_said(name: str) -> None:
    words, said = REFUSED[name]
    result = hermes(*words)
    assert result.code == 2
    assert re.search(said, result.err), result.err
    assert "Traceback" not in result.err


def test_an_option_that_means_no_setting_is_none() -> None:
    assert as_setting("--policy", ["ask", "--policy", "fifo"]) == "policy=fifo"
    assert as_setting("--lout", ["ask", "--lout"]) == ""


# -- what is shown ----------------------------------------------------------------------------------

SHOWN = {
    "policy.tiers.working.scorer": ("what a token is worth", "blend", "a scorer ("),
    "policy.budget": ("video tokens", "4000", "a whole number of at least 1"),
    "video.fps": ("frames sampled per second", "null", "a number above 0, or null"),
    "video": ("how frames are read", "video.max_side", "start: 0.0"),
    "question.max_tokens": ("longest question", "4096", "at least 1"),
    "data.world.length": ("by default", "data=wanderer", "set it: data.world.length="),
    "seed": ("of policies and sampling", "by default: 0", "set it: seed="),
}


@pytest.mark.parametrize("name", SHOWN)
def test_settings_are_shown(name: str) -> None:
    result = hermes("show", name)
    assert result.code == 0
    assert result.out.startswith(f"{name}  setting")
    for said in SHOWN[name]:
        assert said in result.out


def test_a_setting_that_is_none_is_not_shown() -> None:
    result = hermes("show", "policy.tiers.workin.scorer")
    assert (result.code, "Did you mean 'working'" in result.err) == (2, True)


def test_a_policy_is_shown_once() -> None:
    out = hermes("show", "hermes").out
    assert out.count("name: hermes") == 1
    assert out.count("long_term:") == 1


def test_lists_say_what_is_true() -> None:
    backbones = hermes("list", "backbones").out
    assert re.search(r"^embedded +\(trained, comes with Hermes\)", backbones, re.MULTILINE)
    assert re.search(r"^tiny_qwen3_vl +\(random weights\)", backbones, re.MULTILINE)
    assert re.search(r"^fig2 +What each layer looks at", hermes("list", "experiments").out, re.MULTILINE)


def test_no_mark_up_of_docstrings_is_printed() -> None:
    shown = hermes("list").out
    for name in ("annotations", "hermes", "received_attention", "top_k", "wanderer", "openai", "lazy"):
        shown += hermes("show", name).out
    assert not re.findall(r":[a-z]+:`|``", shown)


@pytest.mark.parametrize("columns", [40, 80])
def test_help_survives_narrow_terminals(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in registry("command").names():
        shown = hermes(name, "--help").out
        for option in re.findall(r"--[a-z][a-z-]+", inspect.getsource(registry("command").get(name))):
            if option in ("--help", "--json", "--choices", "--questions", "--memory-map"):
                assert option in shown or name != "ask"
        assert "…" not in shown
        for line in (inspect.getdoc(registry("command").get(name)) or "").splitlines():
            # Command lines and tables stay on one line, to be copied.
            if line.startswith("hermes "):
                assert line in shown
    assert "--probe-result" in hermes("ask", "--help").out


# -- text that a terminal would obey ----------------------------------------------------------------

HOSTILE = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;mine\x07",
    "C1": "\x9b31m\x85",
    "bidi": "safe\u202egpj.exe\u2066",
    "return": "good\rbad",
    "backspace": "a\x08b",
    "nul": "a\0b",
    "delete": "a\x7fb",
    "separator": "a\u2028b",
    "surrogate": "a\ud800b",
}
OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_that_a_terminal_obeys_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = HOSTILE[name]
    assert not OBEYED.search(clean(text))
    table = Table(title=Text(text))
    table.add_column(Text(text))
    table.add_row(Text(text))
    out().print(Text(text), table, text, markup=False)
    err().print(Text(text))
    note("error", text)
    report(InputError(text))
    report(ValueError(text), debug=True)
    said = capsys.readouterr()
    assert not OBEYED.search(said.out + said.err)


@pytest.mark.model
def test_a_page_cleans_questions_and_json_keeps_them() -> None:
    question = "".join(text for name, text in HOSTILE.items() if name != "surrogate") + "?"
    words = ("ask", "sample", question, "--at", "4", "--choices", f"a{question}", "b", *FAST)
    page = hermes(*words)
    assert page.code == 0
    assert not OBEYED.search(page.out + page.err)
    assert hermes(*words, "--json").records[0]["question"] == question


def test_letters_of_any_script_are_kept() -> None:
    text = "Где я? どこ? أين\u200f? 👩\u200d🍳 \t\n"
    assert clean(text) == text
    assert prose("a ``b`` and :class:`~c.D`") == "a b and c.D"


def test_errors_of_the_command_line_are_clean() -> None:
    for words in (["ask", "a\x1b[31m.mp4", "q"], ["show", "\x1b]0;x\x07"], ["validate", "policy=\u202efifo"]):
        result = hermes(*words)
        assert result.code == 2
        assert not OBEYED.search(result.err)


def test_settings_are_printed_clean_and_exact() -> None:
    words = ["validate", "policy=fifo", "backbone.revision=a\u202eb\u2028c"]
    out = hermes(*words).out
    assert not OBEYED.search(out)
    assert yaml.safe_load(out)["backbone"]["revision"] == "a\u202eb\u2028c"


LONG = {
    "ask": ("hermes.cli.watching:watch", ["sample", "what?"]),
    "eval": ("hermes.evaluation.running.run:evaluate", ["data.streams=1", "output=OUT"]),
    "sweep": ("hermes.evaluation.sweeps.running:run_cells", ["policy=fifo,full", "output=OUT"]),
    "judge": ("hermes.evaluation.judging.judge_run:judge_run", ["OUT", "judge=words"]),
    "train": ("hermes.training.run:train_model", ["output=OUT"]),
    "bench": ("hermes.bench.stream:measure", ["--frames", "4"]),
    "investigate": ("hermes.analysis.investigation:investigate_runs", ["output=OUT"]),
}


@pytest.mark.parametrize("name", LONG)
def test_an_interruption_says_what_is_kept_and_how_to_go_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place, words = LONG[name]
    module, _, function = place.partition(":")

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    owner = importlib.import_module(module)
    monkeypatch.setattr(owner, function, interrupted)
    if name == "bench":
        monkeypatch.setattr("hermes.bench.measure", interrupted, raising=False)
    result = hermes(name, *words)
    assert result.code == 130
    assert re.search(r"interrupted: .*kept", result.err)
    assert f"To go on: hermes {name} {words[0]}" in result.err
