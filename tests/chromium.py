"""A headless Chromium, driven over the pipe of its DevTools protocol: no package is needed.

https://chromedevtools.github.io/devtools-protocol/ describes the methods and events.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0

LAUNCH = """
import fcntl, os, sys
# First out of the way of 3 and 4, where the browser reads commands and writes answers.
kept = [fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3]]
os.dup2(kept[0], 3), os.dup2(kept[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """A Chromium: `$CHROME`, or the first on the path."""
    named = os.environ.get("CHROME")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """One browser process; `with` ends it."""

    def __init__(self, program: str, profile: Path) -> None:
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        given = [str(command_read), str(answer_write)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *given, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.call("Browser.close")
        except (OSError, EOFError, TimeoutError):
            self._process.kill()
        self._process.wait(PATIENCE)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Wait until an event came."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise EOFError("Chromium is gone")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    @contextmanager
    def page(self, address: str, scheme: str = "light", width: int = 1280) -> Iterator[Page]:
        """An open page, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable", session)
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", session, features=feature)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        self.events.clear()
        self.call("Page.navigate", session, url=address)
        self.wait_for("Page.loadEventFired")
        try:
            yield Page(self, session)
        finally:
            self.call("Target.closeTarget", targetId=target)


class Page:
    """A loaded page."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        answer = self._browser.call(
            "Runtime.evaluate", self._session, expression=code, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        text = {"Enter": "\r"}.get(key)
        code = {"Tab": 9, "Enter": 13}[key]
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown", **shared, **({"text": text} if text else {})}
        self._browser.call("Input.dispatchKeyEvent", self._session, **down)
        self._browser.call("Input.dispatchKeyEvent", self._session, type="keyUp", **shared)

    def said(self) -> list[Any]:
        """What the console shows: messages, errors, and what the browser complains of."""
        self.run("1")  # events that are under way come before the answer
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self._browser.events if event.get("method") in methods]

    def requested(self) -> list[str]:
        """Addresses that the page asked for, its own among them."""
        self.run("1")
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader is told of."""
        nodes = self._browser.call("Accessibility.getFullAXTree", self._session)["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]

    def picture(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        answer = self._browser.call(
            "Page.captureScreenshot", self._session, format="png", captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(answer["data"]))
