"""A warm worker process: JSON lines in, JSON lines out. ``python -m search.worker``; started by an executor.

It says ``{"ready": pid}`` once, then for each ``{"id", "do", "payload"}`` it says ``{"id", "started":
true}`` and in the end ``{"id", "result"}`` or ``{"id", "error"}``. It keeps nothing between jobs but what is
imported. When its standard input closes, its driver is gone, and it goes at once, in the middle of whatever
it does.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def serve(handlers: Mapping[str, Handler]) -> None:
    """Work until standard input closes."""
    replies = _private_stdout()
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    _say(replies, {"ready": os.getpid()})
    while True:
        request = json.loads(requests.get())
        _say(replies, {"id": request["id"], "started": True})
        _say(replies, {"id": request["id"], **_answer(handlers, request)})


def _answer(handlers: Mapping[str, Handler], request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"result": handlers[request["do"]](request["payload"])}
    except Exception as error:
        traceback.print_exc()  # into the worker's log
        return {"error": f"{type(error).__name__}: {str(error)[:2_000]}"}


def _private_stdout() -> IO[str]:
    """Our end of the pipe; whatever a component prints goes to the log instead."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _read(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _say(replies: IO[str], message: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(message, allow_nan=False)
    except ValueError as error:
        text = json.dumps({"id": message["id"], "error": f"a result that is no JSON: {error}"})
    replies.write(text + "\n")
    replies.flush()


def main() -> None:
    """Serve the handlers of specs, with the threads and plug-ins named by the executor."""
    from search.handlers import handlers

    threads, *plugins = sys.argv[1:]
    serve(handlers(threads=int(threads), plugins=tuple(plugins)))


if __name__ == "__main__":
    main()
