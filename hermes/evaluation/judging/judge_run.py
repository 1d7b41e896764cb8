"""The open-ended answers of a run judged: each verdict kept as it comes, then written into the rows."""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes.errors import InputError, SettingError
from hermes.evaluation.judging.judge import Judge, RefusedError, Verdict
from hermes.evaluation.judging.verdict_file import VerdictFile
from hermes.evaluation.results.journal import amend, read_broken, read_run
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.results.run_folder import DONE, finish, note, run_file
from hermes.evaluation.scoring.summary import Summary, summarise
from hermes.machine.interrupts import noticing
from hermes.version import __version__

__all__ = ["judge_run"]

_Case = tuple[str, AnswerRow]
# Questions that may be refused before any is answered.
_REFUSED = 3
# Seconds between looks for Ctrl-C: one that comes just before a thread begins to wait does not wake it.
_LOOK = 0.2


def judge_run(
    folder: str | Path,
    judge: Judge,
    *,
    again: bool = False,
    anyway: bool = False,
    watcher: Callable[[int, int], None] | None = None,
) -> Summary:
    """Judge the open-ended answers of a run, finished or not; no model of the run is loaded.

    Every verdict is in ``folder/judged.jsonl`` as soon as it is given, with messages and replies, so that
    only what is missing is asked when the same is done again, also after a kill. At the end, or when it is
    stopped, ``rows.jsonl`` is rewritten at once: each row has the verdict of this judge, or none. Verdicts of
    another judge leave the rows and stay in ``judged.jsonl``. The manifest tells the judge.

    Args:
        folder: of the run; not one that is being written to.
        judge: who judges.
        again: ask everything anew, whatever is kept.
        anyway: keep what this judge said under another version of Hermes; the manifest then tells both.
        watcher: called with answers that have a verdict, and answers to judge.

    Returns:
        What the run comes to now.

    Raises:
        SettingError: another version of Hermes has begun to judge with the same judge.
        InputError: no run there, or a judge that cannot be used or reached; verdicts until then are kept.
    """
    folder = Path(folder)
    judge.check()
    rows, about = read_run(folder)
    identity = judge.identity
    cases = {_key(identity, row): row for row in rows if row.needs_judge}
    if not cases:
        return summarise(rows, read_broken(folder))
    # What reads the same is asked once.
    times = Counter(_key(identity, row) for row in rows if row.needs_judge)
    kept = VerdictFile(run_file(folder, "judged.jsonl"))
    shared = VerdictFile(judge.cache) if judge.cache is not None else None
    found: dict[str, Verdict] = {}
    for key, row in cases.items():
        if again:
            break
        if key not in kept.verdicts and shared is not None and key in shared.verdicts:
            kept.add(key, identity, row, shared.verdicts[key])
        verdict = kept.verdicts.get(key)
        if verdict is None and row.judge == identity:
            verdict = Verdict(row.correct, row.score)
        if verdict is not None and verdict.correct is not None:
            found[key] = verdict
    missing = [(key, row) for key, row in cases.items() if key not in found]
    by = _version(judge, about, fresh=again or not found, anyway=anyway) if missing else ""
    try:
        for key, verdict in _asked(judge, missing, proven=bool(found)):
            found[key] = verdict
            kept.add(key, identity, cases[key], verdict)
            if shared is not None:
                shared.add(key, identity, cases[key], verdict)
            if watcher is not None:
                watcher(sum(times[key] for key in found), times.total())
    except InputError as error:
        done = f"{sum(times[key] for key in found)} of {times.total()} answers are judged"
        raise InputError(f"{error}. {done} (kept in {kept.path}); the same command does the rest.") from error
    finally:
        known = {key: verdict for key, verdict in {**kept.verdicts, **found}.items() if key in cases}
        # A judge that could not be reached takes no other's place.
        if known:
            note(folder, "judge", {**judge.record(), **({"version": by} if by else {})})
            amend(folder, lambda row: _with_verdict(row, identity, known))
        summary = summarise(read_run(folder)[0], read_broken(folder))
        if known and run_file(folder, DONE).is_file():
            # A cell of a sweep: its record follows the rows, and has a judge when all are judged.
            finish(folder, summary.record() | {"judge": identity if len(known) == len(cases) else ""})
    return summary


def _version(judge: Judge, about: Mapping[str, Any], *, fresh: bool, anyway: bool) -> str:
    """The version of Hermes that judges, besides one that the same judge began with."""
    before = about.get("judge", {})
    was = str(before.get("version", __version__)) if before.get("identity") == judge.identity else __version__
    if fresh or __version__ in was.split(", "):
        return __version__ if fresh else was
    if not anyway:
        hint = f"It began with version {was}; --again asks anew, --anyway keeps those verdicts."
        raise SettingError("judge", f"Hermes {__version__}", "the version that began", hint)
    return f"{was}, {__version__}"


def _with_verdict(row: AnswerRow, identity: str, found: Mapping[str, Verdict]) -> AnswerRow:
    if not row.needs_judge:
        return row
    verdict = found.get(_key(identity, row))
    if verdict is None:
        return replace(row, correct=None, score=None, judge=None)
    return replace(row, correct=verdict.correct, score=verdict.score, judge=identity)


def _key(identity: str, row: AnswerRow) -> str:
    # The messages follow from these.
    text = json.dumps([identity, row.question, row.expected, row.answer])
    return hashlib.sha256(text.encode()).hexdigest()


def _asked(judge: Judge, cases: Sequence[_Case], *, proven: bool) -> Iterator[tuple[str, Verdict]]:
    """Verdicts as they come; a question that is refused has none that can be read, if others are taken.

    Until one is, they are asked one by one, so that a wrong setting costs no more than a few requests.
    """
    refused: list[tuple[str, RefusedError]] = []
    first: Exception | None = None
    while cases and first is None:
        size = len(cases) if proven else 1
        with closing(_results(judge, cases[:size])) as results:
            for key, result in results:
                if isinstance(result, RefusedError):
                    refused.append((key, result))
                elif isinstance(result, Exception):
                    first = first or result
                else:
                    proven = True
                    yield key, result
        cases = cases[size:]
        if not proven and first is None and (len(refused) == _REFUSED or not cases):
            first = refused[-1][1]
    if proven:
        for key, error in refused:
            yield key, Verdict(None, replies=(str(error),))
    if first is not None:
        raise first


def _results(judge: Judge, cases: Sequence[_Case]) -> Generator[tuple[str, Verdict | Exception], None, None]:
    """What becomes of each, from several threads; after an error nothing new is begun.

    A thread begins its next request once its last result has been used: a kill costs what is under way.
    """
    waiting: queue.SimpleQueue[_Case] = queue.SimpleQueue()
    results: queue.SimpleQueue[tuple[str, Verdict | Exception] | None] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    stopped = threading.Event()
    working = min(judge.parallel, len(cases))
    # One for each request that may be under way or unwritten.
    permits = threading.Semaphore(working)

    def work() -> None:
        while permits.acquire() and not stopped.is_set():
            try:
                key, row = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                results.put((key, judge.verdict(row.question, row.expected, row.answer)))
            except Exception as error:
                results.put((key, error))
                if not isinstance(error, RefusedError):
                    stopped.set()
        results.put(None)

    for _ in range(working):
        # Ctrl-C does not wait for a reply.
        threading.Thread(target=work, daemon=True).start()
    try:
        with noticing() as check:
            while working:
                check()
                try:
                    result = results.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if result is None:
                    working -= 1
                else:
                    yield result
                    permits.release()
    finally:
        stopped.set()
        permits.release(judge.parallel)
