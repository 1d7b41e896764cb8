"""A process that saves over an old save and is killed, again and again: what is there afterwards?

Run as a module, so that its children, which are forked, have no threads.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from hermes.backbone import BackboneConfig, load_backbone
from hermes.policies.h2o import H2O
from hermes.session.session import StreamSession
from tests.session.test_session import SHORT, frames
from tests.support.faults import counted, killed


def digest(session: StreamSession) -> str:
    """What a session holds and would answer."""
    tensors = [*session.memory.state(), *session.policy.state().values()]
    held = [tensor.double().sum().item() for tensor in tensors]
    return json.dumps([session.frames_seen, held, session.ask("What now?").ids.tolist()])


def main(folder: Path, random_kills: int, stride: int) -> None:
    backbone = load_backbone(BackboneConfig(family="tiny_llava_onevision"))

    def session(count: int = 0) -> StreamSession:
        made = StreamSession(backbone, H2O(budget=24), chunk_frames=4, fps=1, generation=SHORT)
        made.feed(frames(0, count))
        made.flush()
        return made

    old, new = session(8), session(16)
    known = {}
    for name, one in (("old", old), ("new", new)):
        one.save(folder / name)
        again = session()
        again.resume(folder / name)
        known[digest(again)] = name
    there = folder / "there"
    (folder / "there").mkdir()
    (there / "mine.txt").write_text("mine")
    old.save(there)
    began = time.monotonic()
    new.save(there)
    seconds = time.monotonic() - began
    with counted(there) as count:
        old.save(there)
    found: Counter[str] = Counter()
    draw = random.Random(0)
    # The last one, too: by then the new save is whole.
    plans = [(at, 0.0) for at in sorted({*range(1, count.calls, stride), count.calls})]
    plans += [(0, draw.uniform(0, 1.2 * seconds)) for _ in range(random_kills)]
    for at, delay in plans:
        old.save(there)
        child = os.fork()
        if not child:
            with counted(there, at, killed):
                new.save(there)
            os._exit(0)
        if not at:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        again = session()
        again.resume(there)
        state = known.get(digest(again), "mixed")
        found[f"{state}, {'killed' if os.WIFSIGNALED(status) else 'finished'}"] += 1
    old.save(there)
    report = {"found": found, "calls": count.calls, "left": sorted(os.listdir(there))}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
