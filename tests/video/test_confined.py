"""A path is that file, and a file opens nothing but itself."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import av
import pytest

from hermes.errors import InputError
from hermes.session.config import run_config
from hermes.video import open_source, write_video
from tests.support.video_files import number, numbered, read


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    write_video(path, numbered(30), 10)
    return path.read_bytes()


NAMES = [
    "12:30 meeting.mp4",
    "a b.mp4",
    "100%.mp4",
    "a%20b.mp4",
    "%03d.png",
    "frame%d.jpg",
    "-dash.mp4",
    "--start=5.mp4",
    "new\nline.mp4",
    "日本語 नमस्ते עברית.mp4",
    "concat:x",
    "data:x",
    "file:y.mp4",
    "pipe:0",
    "rtsp:cam.mp4",
    "http:",
    "crypto:z",
    "lavfi:testsrc",
    "~nobody",
    "~",
    "*.mp4",
    "[1]?.mp4",
    "|sh.mp4",
    "#.mp4",
    "'q\".mp4",
    "back\\slash.mp4",
    " lead.mp4 ",
    "list.m3u8",
    "list.ffconcat",
    "no suffix",
    "C:",
    os.fsdecode(b"bytes \xff.mp4"),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_path_that_exists_is_that_file(
    name: str, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip)
    for spec in (name, Path(name), tmp_path / name):
        with open_source(spec, fps=1, start=1) as source:
            assert [number(frame.image) for frame in source] == [10, 20]
            assert source.duration == 3.0


def test_uris_of_files(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b.mp4", "100%.mp4", "12:30.mp4", "é#?.mp4"):
        path = tmp_path / name
        path.write_bytes(clip)
        uri = path.as_uri()
        for spec in (
            uri,
            uri.replace("file:///", "file://localhost/"),
            uri.replace("file://", "FILE:"),
            f"file:{name}",
        ):
            assert len(read(spec, fps=1)) == 3
    with pytest.raises(InputError, match="another machine"):
        open_source("file://elsewhere/a.mp4")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("12:30 meetin.mp4", "no such file. Did you mean '12:30 meeting.mp4'"),
        ("concat:12:30 meeting.mp4", "no such file"),
        ("subfile,,start,0,end,9,,:12:30 meeting.mp4", "no such file"),
        ("data:video/mp4;base64,AAAA", "no such file"),
        ("lavfi:testsrc", "no such file"),
        ("~nobody_at_all", "no such user's folder"),
        ("~nobody_at_all/a.mp4", "no such user's folder"),
        ("file:///nowhere/a%20b.mp4", "/nowhere/a b.mp4: no such file"),
        ("", "an empty path"),
        ("a\0b", "zero character"),
        ("x" * 5000, "cannot be read"),
        ("12:30 meeting.mp4/a.mp4", "12:30 meeting.mp4/a.mp4"),
    ],
)
def test_paths_at_which_there_is_nothing(
    spec: str, message: str, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("12:30 meeting.mp4").write_bytes(clip)
    with pytest.raises(InputError) as caught:
        open_source(spec)
    assert message in str(caught.value)


LISTS: dict[str, Callable[[str], str]] = {
    "a.m3u8": lambda to: f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{to}\n#EXT-X-ENDLIST\n",
    "a.mp4": lambda to: f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{to}\n#EXT-X-ENDLIST\n",
    "a.ffconcat": lambda to: f"ffconcat version 1.0\nfile '{to}'\n",
    "a.txt": lambda to: f"ffconcat version 1.0\nfile '{to}'\n",
    "a.sdp": lambda _: (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    ),
    "a.mpd": lambda to: (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT3S"><Period><AdaptationSet mimeType="video/mp4"><Representation '
        f'id="1" bandwidth="1"><BaseURL>{to}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    ),
    "a.idx": lambda to: f"# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\n# {to}\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_other_files_are_not_followed(name: str, clip: bytes, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "b.ts").write_bytes(clip)
        for to in ("b.ts", str(tmp_path / "b.ts"), address):
            (tmp_path / name).write_text(LISTS[name](to))
            for spec in (tmp_path / name, (tmp_path / name).read_bytes()):
                with pytest.raises(InputError, match=r"text file, not a video|not a video that FFmpeg"):
                    read(spec)
        with pytest.raises(TimeoutError):
            server.accept()


def test_lists_are_followed_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "b.ts", numbered(30), 10)
    (tmp_path / "a.m3u8").write_text(LISTS["a.m3u8"]("b.ts"))
    (tmp_path / "a.ffconcat").write_text(LISTS["a.ffconcat"]("b.ts") * 1)
    for name in ("a.m3u8", "a.ffconcat"):
        frames = read(tmp_path / name, fps=1, references=True)
        assert [number(frame.image) for frame in frames] == [0, 10, 20]
    # Still no network from a local file.
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        (tmp_path / "c.m3u8").write_text(LISTS["a.m3u8"](f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        with pytest.raises(InputError):
            read(tmp_path / "c.m3u8", references=True)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_playlist_from_the_network_names_no_local_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    write_video(tmp_path / "b.ts", numbered(30), 10)
    (tmp_path / "a.m3u8").write_text(LISTS["a.m3u8"]("b.ts"))
    (tmp_path / "c.m3u8").write_text(LISTS["a.m3u8"]((tmp_path / "b.ts").as_uri()))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert [number(frame.image) for frame in read(f"{address}/a.m3u8", fps=1)] == [0, 10, 20]
        with pytest.raises(InputError):
            read(f"{address}/c.m3u8", fps=1)
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_references_inside_a_container_are_not_followed(clip: bytes, tmp_path: Path) -> None:
    """A MOV whose track lies in another file."""
    write_video(tmp_path / "b.mov", numbered(30), 10)
    data = bytearray((tmp_path / "b.mov").read_bytes())
    place = data.index(b"dref") + 12
    assert data[place + 4 : place + 8] in (b"url ", b"alis")
    data[place + 8 : place + 12] = bytes(4)  # not in this file
    (tmp_path / "a.mov").write_bytes(bytes(data))
    opened: list[str] = []
    real = av.open

    def watched(file: object, *args: object, **options: object) -> object:
        opened.append(str(file))
        return real(file, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", watched)
        with suppress(InputError):
            read(tmp_path / "a.mov")
    assert all(str(tmp_path) not in name for name in opened)


# what is read once


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_pipes_and_sockets_are_opened_once(kind: str, tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", numbered(30), 10)
    data, path = (tmp_path / "a.ts").read_bytes(), tmp_path / kind
    times: list[int] = []
    server = socket.socket(socket.AF_UNIX)
    if kind == "fifo":
        os.mkfifo(path)
    else:
        server.bind(str(path))
        server.listen()

    def serve() -> None:
        times.append(1)
        if kind == "fifo":
            path.write_bytes(data)
        else:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with open_source(path, fps=1, start=1) as source:
        assert source.duration is None
        assert [number(frame.image) for frame in source] == [10, 20]
        assert source.duration == pytest.approx(3.0)
    thread.join(10)
    server.close()
    assert not thread.is_alive()


def test_options_are_settings() -> None:
    words = [
        "video.options.rtsp_transport=tcp",
        "video.options.timeout=5000000",
        "video.options.fflags=nobuffer",
    ]
    config = run_config([*words, "video.references=true"])
    assert config.video.options == {"rtsp_transport": "tcp", "timeout": 5000000, "fflags": "nobuffer"}
    assert config.video.reading()["references"] is True


def test_options_reach_the_demuxer(clip: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip)
    assert read(tmp_path / "a.mp4", options={"ignore_editlist": True, "probesize": 100000})
    with pytest.raises(InputError):
        read(tmp_path / "a.mp4", options={"format_whitelist": "matroska"})
