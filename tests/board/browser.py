"""A headless Chromium that is spoken to over its own pipe (DevTools protocol): no driver, no port, no other package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_KEYS = {"Enter": 13, "Tab": 9, " ": 32}


def find_browser() -> str | None:
    """Return the program of a Chromium: ORCH_CHROMIUM, else one on the path."""
    return os.environ.get("ORCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. Every request that it makes is in `requests`, what its scripts complain of in `complaints`."""

    def __init__(self, folder: Path) -> None:
        (reads, self._out), (self._in, writes) = os.pipe(), os.pipe()

        argv = [str(find_browser()), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars",
                "--disable-background-networking", f"--user-data-dir={folder}", "--window-size=1500,1000"]  # fmt: skip
        on_3_and_4 = ["bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}']  # where the browser reads and writes
        self._process = subprocess.Popen([*on_3_and_4, *argv], pass_fds=(reads, writes), stderr=subprocess.DEVNULL)
        os.close(reads)
        os.close(writes)
        self._numbers, self._rest, self._session = itertools.count(1), b"", ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (said := self._read()).get("id") != number:
            self._note(said)
        assert "error" not in said, said
        return said["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        whole, _, self._rest = self._rest.partition(b"\0")
        return json.loads(whole)

    def _note(self, said: dict[str, Any]) -> None:
        match said.get("method"), said.get("params", {}):
            case "Network.requestWillBeSent", {"request": {"url": url}}:
                self.requests.append(url)
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.complaints.append(str(details.get("exception", details)))
            case "Log.entryAdded", {"entry": {"level": "error", "text": text}}:
                self.complaints.append(text)

    def open(self, address: str) -> None:
        """Load a page and wait until it is drawn."""
        self.call("Page.navigate", url=address)
        self.ask(
            "new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
        )

    def ask(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        code = _KEYS[key]
        text = {"text": "\r" if key == "Enter" else key} if key != "Tab" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Write text where the focus is."""
        self.call("Input.insertText", text=text)

    def media(self, kind: str = "", *, dark: bool = False) -> None:
        """Show the page as on paper, or in dark colours."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=scheme)

    def picture(self, path: Path, *, height: int | None = None, width: int = 1500) -> None:
        """Write a PNG of the page, or of its first `height` pixels."""
        height = height or self.ask("document.documentElement.scrollHeight")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
