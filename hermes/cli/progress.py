"""Progress bars on stderr, each with the time that is left from the first item on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from hermes.cli.output import err

__all__ = ["Bars", "Remaining"]


class Remaining(ProgressColumn):
    """The time that is left: what came since the bar began took as long as what is to come, each alike."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """As h:mm:ss; what was done before the bar began tells nothing."""
        done, elapsed = task.completed - task.fields.get("begun", 0), task.finished_time or task.elapsed
        if task.total is None or elapsed is None or done <= 0:
            return Text("-:--:--", style="progress.remaining")
        left = elapsed / done * (task.total - task.completed)
        return Text(str(timedelta(seconds=round(max(left, 0)))), style="progress.remaining")


class Bars(Progress):
    """Bars that count, each shown once there is something to count; they vanish at the end.

    Args:
        shown: whether anything is drawn.
    """

    def __init__(self, *, shown: bool = True) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Remaining(),
        )
        super().__init__(*columns, console=err(), transient=True, disable=not shown)

    def watcher(self, what: str) -> Callable[[int, int], None]:
        """What is to be called with items done and items in all, first with those done before."""
        task = self.add_task(what, total=None, visible=False)
        begun: list[int] = []

        def watch(done: int, total: int) -> None:
            if not begun:
                begun.append(done)
                self.reset(task, total=total, completed=done, visible=True, begun=done)
            self.update(task, completed=done, total=total)

        return watch
