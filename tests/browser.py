"""A headless Chromium for tests, driven over its debugging protocol."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from websocket import create_connection

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
NEEDS_BROWSER = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is here to open the pages in"
)


class Browser:
    """A headless Chromium that says what a page does, over its debugging protocol."""

    FLAGS = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
        "--remote-debugging-port=0"
    ).split()
    LOOK = """(() => {
        const root = document.documentElement;
        return {
            width: innerWidth, needed: root.scrollWidth, words: root.innerText.split(/\\s+/).length,
            broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
        };
    })()"""

    def __init__(self, profile: Path):
        self.process = subprocess.Popen(
            [BROWSER, *self.FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            address = profile / "DevToolsActivePort"
            for _ in range(300):
                if address.exists() and address.read_text().count("\n"):
                    break
                time.sleep(0.1)
            port = int(address.read_text().split()[0])
            with urlopen(f"http://127.0.0.1:{port}/json") as answer:
                page = next(target for target in json.load(answer) if target["type"] == "page")
            self.socket = create_connection(
                page["webSocketDebuggerUrl"],
                timeout=200,
                suppress_origin=True,
                skip_utf8_validation=True,  # json.loads does it
            )
        except BaseException:
            self.close()
            raise
        self.calls = 0
        self.events: list[dict] = []
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def call(self, method: str, **params) -> dict:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv())).get("id") != self.calls:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, path: Path, width: int) -> tuple[dict, list[str]]:
        """Load a page at a width: what it looks like, and everything that went wrong."""
        self.resize(width)
        self.go(path.resolve().as_uri())
        return self.run(self.LOOK), list(filter(None, map(complaint, self.events)))

    def resize(self, width: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip

    def go(self, address: str) -> None:
        """Load what stands at an address."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def run(self, script: str) -> object:
        """The value of a script on the page; a promise is awaited."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, script: str, seconds: float = 200) -> object:
        """The value of a script as soon as it is true."""
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"still not true: {script}"
            time.sleep(0.1)
        return value


def complaint(event: dict) -> str | None:
    """What an event of the browser says went wrong, or None."""
    method, params = event["method"], event.get("params", {})
    if method == "Network.requestWillBeSent" and params["request"]["url"].startswith("http"):
        return "asks the network: " + params["request"]["url"]
    if method == "Network.loadingFailed":
        return "cannot load: " + params["errorText"]
    if method == "Runtime.exceptionThrown":
        return params["exceptionDetails"]["exception"]["description"]
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return "console: " + str(params["args"])
    if method == "Log.entryAdded":
        return "log: " + params["entry"]["text"]
    return None
