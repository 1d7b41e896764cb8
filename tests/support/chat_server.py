"""A chat endpoint on this machine that says what a test wants, and remembers what it was asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hermes.evaluation.judging.judges import OpenAIJudge

# Status and text of a reply, from the request's messages and how many requests came before it.
Say = Callable[[list[dict[str, str]], int], tuple[int, str]]


def fair(messages: list[dict[str, str]], _: int = 0) -> tuple[int, str]:
    """Right if the first letters agree; the score says how long the answer is."""
    expected, answer = words(messages)
    right = expected[:1].lower() == answer[:1].lower()
    return 200, json.dumps({"correct": "yes" if right else "no", "score": 4 if right else 1})


def words(messages: list[dict[str, str]]) -> tuple[str, str]:
    """The expected answer and the one to grade, from the prompt."""
    found = re.search(r"Reference answer: (.*)\nAnswer to grade: (.*)\n", messages[0]["content"])
    assert found is not None
    return found[1], found[2]


def asked(server: ChatServer, **given: Any) -> OpenAIJudge:
    """The judge behind a server."""
    return OpenAIJudge("m", base_url=server.url, **{"retries": 2, "timeout": 20.0, **given})


class ChatServer:
    """Serves on a free port of its own while the context lasts."""

    def __init__(self, say: Say = fair) -> None:
        self.say = say
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> ChatServer:
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                chat._serve(self)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.keys.append(handler.headers["Authorization"])
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            status, text = self.say(body["messages"], number)
        finally:
            with self._lock:
                self._now -= 1
        made: dict[str, Any] = {"error": {"message": text, "type": "test"}}
        if status == 200:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            made = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        content = json.dumps(made).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(content)))
            # As an endpoint says when to come again, so that tests need not wait.
            handler.send_header("retry-after-ms", "1")
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            # Whoever asked has gone.
            pass
