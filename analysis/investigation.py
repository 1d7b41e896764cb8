"""An investigation from start to end: collect, estimate, discover, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hermes import Backbone, load_backbone

from .findings import Findings, find
from .report import write_report, write_windows
from .settings import InvestigateConfig
from .study import collect

__all__ = ["investigate_runs"]


def investigate_runs(
    config: InvestigateConfig,
    folder: Path,
    *,
    title: str = "",
    backbone: Backbone | None = None,
    watcher: Callable[[int, int], None] | None = None,
    anyway: bool = False,
) -> dict[int, Findings]:
    """Run an investigation, or several with other windows, and write everything to a folder.

    Source: the procedure of arXiv 2601.14724, Sec. 2.

    Args:
        config: everything.
        folder: for figures, tables, tiers and page; with ``windows`` each has a folder ``window_N`` in it.
        title: of the page.
        backbone: a loaded one; by default that of ``config``.
        watcher: called with videos done and videos in all, over all windows.
        anyway: go on with a run that other weights or versions began; the manifest tells it.

    Returns:
        the findings by window, or under the policy's own budget.

    Raises:
        SettingError: a wrong setting, or a folder that holds another run.
        InputError: a question that cannot be asked, a video that cannot be read, or no question at all.
    """
    windows = config.windows or [config.policy.budget]
    if len(windows) > 1 and backbone is None:
        backbone = load_backbone(config.backbone)
    found: dict[int, Findings] = {}
    for number, window in enumerate(windows):
        policy: Any = config.policy
        one = replace(config, policy=replace(policy, budget=window), windows=[], output=None)
        own = folder / f"window_{window}" if config.windows else folder

        def watch(done: int, total: int, number: int = number) -> None:
            if watcher is not None:
                watcher(number * total + done, len(windows) * total)

        found[window] = find(collect(one, own, backbone=backbone, watcher=watch, anyway=anyway), config.seed)
        write_report(found[window], own, f"{title}, window {window}" if config.windows else title)
    if config.windows:
        write_windows(found, folder, title)
    return found
