"""Drive a real Chromium over the DevTools protocol's pipe: open a page, ask it, press keys, and see what it fetched."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 60.0

_HIGH = 64  # descriptors are moved here first, so that none is in the way of 3 and 4, on which Chromium listens
_KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39} | {
    "ArrowDown": 40,
    "Tab": 9,
}


@dataclass(slots=True, kw_only=True)
class Browser:
    """A running browser with one page.

    Attributes
    ----------
    requests
        Every address that the page asked for, whether it was had or not.
    complaints
        What the console said, what the policy refused, and what was thrown and not caught.
    """

    process: int
    commands: int
    answers: int
    session: str = ""
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    loads: int = 0
    _number: int = 0
    _rest: bytes = b""

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        before = self.loads
        self.ask("Page.navigate", url=address)
        while self.loads == before:
            self._next()

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until what was begun is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 5))))")

    def wait_for(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key."""
        details = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **details, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **details)
        self.settle()

    def resize(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Set the size of the window, and whether it is to be dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.settle()

    def picture(self) -> bytes:
        """Take what is seen as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + DEADLINE_SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            piece = os.read(self.answers, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        about = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(about["args"]))
            case "Log.entryAdded":
                self.complaints.append(about["entry"]["text"])
            case "Page.loadEventFired":
                self.loads += 1
        return message


@contextlib.contextmanager
def browser(program: str, folder: Path, *wrapper: str) -> Iterator[Browser]:
    """Start Chromium without a window and with a profile of its own; it is killed on the way out, however that comes.

    Parameters
    ----------
    program
        Chromium.
    folder
        Where its profile may lie.
    wrapper
        A command before it, such as `unshare --net`, which leaves it no network.
    """
    command_out, command_in = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _HIGH) for end in _pipe())
    answer_out, answer_in = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _HIGH) for end in _pipe())
    words = [*wrapper, program, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"]
    words += [f"--user-data-dir={folder / 'profile'}", "--no-first-run", "--disable-background-networking"]
    words += ["--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank"]
    quiet = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, quiet, 0), (os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, command_out, 3), (os.POSIX_SPAWN_DUP2, answer_in, 4)]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    process = os.posix_spawnp(words[0], words, environment, file_actions=actions, setsid=True)
    for end in (command_out, answer_in, quiet):
        os.close(end)
    try:
        driven = Browser(process=process, commands=command_in, answers=answer_out)
        pages = driven.ask("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in pages if one["type"] == "page")
        driven.session = driven.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            driven.ask(f"{part}.enable")
        yield driven
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(command_in)
        os.close(answer_out)


def _pipe() -> Iterator[int]:
    """Open a pipe whose ends are closed once they have been moved."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        yield end
        os.close(end)
