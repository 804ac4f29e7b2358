"""Chromium, steered through pipes by the DevTools protocol: what a page is to whoever looks at it, reads it or prints it."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "google-chrome")
_SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--force-color-profile=srgb",
)


class Page:
    """One tab. Times out with the test: a browser that hangs fails it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._session: dict[str, str] = {}
        self._number = 0
        self.said: list[dict[str, Any]] = []
        """What the browser told of by itself: errors, warnings, requests."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Calls a method of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while (answer := self._next()).get("id") != self._number:
            self.said.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, method: str) -> None:
        """Waits until the browser has told of something."""
        while not any(message.get("method") == method for message in self.said):
            self.said.append(self._next())

    def open(self, file: Path) -> None:
        """Loads a page, whose text is then all there."""
        self.said.clear()
        self.call("Page.navigate", url=file.as_uri())
        self.wait_for("Page.loadEventFired")

    def look(self, width: int = 1100, height: int = 900, *, dark: bool = False, printed: bool = False) -> None:
        """Sets the window, the colour scheme and the medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media="print" if printed else "", features=scheme)

    def value(self, expression: str) -> Any:
        """What an expression is in the page; of a promise, what it is kept with."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses keys: Tab, Enter, Space or an arrow."""
        for key in keys:
            text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
            code = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}[
                key
            ]
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def point_at(self, selector: str) -> None:
        """Moves the mouse onto the first element of a selector."""
        box = self.value(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def problems(self) -> list[str]:
        """Errors of scripts, and what the content security policy or the network refused, since the page was opened."""
        self.value("1")
        found = []
        for message in self.said:
            match message.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(message["params"]["exceptionDetails"]["text"])
                case "Log.entryAdded" if message["params"]["entry"]["level"] in {"error", "warning"}:
                    found.append(message["params"]["entry"]["text"])
        return found

    def violations(self) -> list[str]:
        """What axe-core finds that is serious or critical: each rule with the first element that breaks it."""
        self.value(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
        found = self.value(
            "axe.run(document).then(found => found.violations.filter(one => ['serious', 'critical'].includes(one.impact))"
            ".map(one => one.id + ' ' + one.nodes[0].html))"
        )
        assert isinstance(found, list)
        return found

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened."""
        return [
            message["params"]["request"]["url"]
            for message in self.said
            if message.get("method") == "Network.requestWillBeSent"
        ]

    def screenshot(self, top: int = 0, height: int | None = None) -> bytes:
        """A picture of the page, all of it or so many rows of it, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": top, "width": size["width"], "height": height or size["height"] - top, "scale": 1}
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(done["data"])

    def pdf(self) -> bytes:
        """The page printed on A4."""
        done = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        return base64.b64decode(done["data"])

    def _next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        message = bytearray()
        while (letter := self._process.stdout.read(1)) != b"\0":
            assert letter, "the browser has ended"
            message += letter
        found = json.loads(message)
        assert isinstance(found, dict)
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Starts Chromium, and ends it.

    Args:
        profile: A folder for its profile.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    # It reads from descriptor 3 and writes to 4.
    command = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh", program, *_SWITCHES]
    process = subprocess.Popen([*command, f"--user-data-dir={profile}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        page = Page(process)
        yield page
        page.call("Browser.close")
    finally:
        process.terminate()
        process.communicate()
