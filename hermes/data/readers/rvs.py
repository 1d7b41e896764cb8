"""RVS-Ego and RVS-Movie: open questions at times of long streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hermes.config import setting
from hermes.data.clips import Problem
from hermes.data.entries import RawQuestion
from hermes.data.readers.published import Published, objects
from hermes.data.tables import load

__all__ = ["RvsEgo", "RvsMovie"]


@dataclass
class _Rvs(Published):
    """Both halves of RVS."""

    clips: Path | None = setting(
        None,
        help="list of clips (rvs_ego.json or rvs_movie.json), if the videos are the original ones, uncut",
    )

    def completed(self, entry: RawQuestion) -> RawQuestion:
        """Marked as open-ended: an answer in other words may be right."""
        entry = super().completed(entry)
        return replace(entry, extra={**entry.extra, "open_ended": True})

    def own_entries(self, content: Any) -> Iterator[RawQuestion | Problem]:
        """The questions of ``test_qa_*.json``, each about a clip."""
        clips: dict[str, dict[str, Any]] = {}
        for found in [] if self.clips is None else objects(load(self.clips), "clip", "video_id"):
            if isinstance(found, Problem):
                yield replace(found, where=f"{self.clips}: {found.where}")
            else:
                clips[str(found[1]["video_id"])] = found[1]
        for found in self.objects(content, "video_id", "question", "answer"):
            if isinstance(found, Problem):
                yield found
                continue
            where, row = found
            name = str(row["video_id"])
            clip = clips.get(name, {})
            if self.clips is not None and not clip:
                yield Problem(where, f"the clip {name!r} is not in {self.clips}")
                continue
            start, end = (clip.get(f"{side}_time", clip.get(f"{side}_shot")) for side in ("start", "end"))
            first, time = row.get("start_time"), row.get("end_time")
            known = ("video_id", "question", "answer", "answer_type", "id", "start_time", "end_time")
            yield RawQuestion.of(
                where=where,
                video=f"{clip.get('original_video', name)}{self.suffix}",
                question=row["question"],
                answer=row["answer"],
                time=time,
                start=start,
                end=end,
                evidence=None if first is None or time is None else (first, time),
                task=row.get("answer_type"),
                id=row.get("id"),
                video_id=name,
                extra={key: value for key, value in row.items() if key not in known},
            )


@dataclass
class RvsEgo(_Rvs):
    """RVS-Ego of VStream-QA: open questions about hours of egocentric video, to be judged.

    Source: arXiv 2406.08085. As published (data set IVGSZ/VStream-QA, as far as its card tells):
    ``vstream-realtime/test_qa_ego4d.json`` with ``video_id``, ``question``, ``answer``, and a video
    ``VIDEO_ID.mp4`` for each clip; ``data.clips=rvs_ego.json`` takes the clips from the original videos
    instead. A question is asked at its ``end_time`` or, without one, at the end of its clip. There every clip
    is a stream of its own; in the shared form a stream is a whole video.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    label: ClassVar[str] = "RVS-Ego"


@dataclass
class RvsMovie(_Rvs):
    """RVS-Movie of VStream-QA: open questions about parts of movies, to be judged.

    Source: arXiv 2406.08085; formats as for RVS-Ego, with ``test_qa_movienet.json`` and ``rvs_movie.json``.
    Its videos are key frames of MovieNet, and its times seem to count them (films "last" 900 to 2 700), so
    that ``data.source_fps`` is 1.

    Raises:
        InputError: a file that cannot be read, no question in it, or missing videos.
        SettingError: a wrong setting.
    """

    label: ClassVar[str] = "RVS-Movie"
