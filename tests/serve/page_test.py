"""The page, in headless Chromium over its debugging pipe; skipped where there is no Chromium."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

# What the extra `serve` installs.
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

HOSTILE = "</script><img src=x onerror='window.harm=1'><b>&amp;\" 'movie' "


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, folder):
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("needs Chromium")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()

        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
        flags += " --disable-background-networking --disable-component-update"
        flags += f" --user-data-dir={folder} --remote-debugging-pipe"
        # Chromium reads from 3 and writes to 4.
        connect = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", connect, "bash", program, *flags.split()],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._read, 1 << 16)
                assert part, "Chromium has ended"
                self._buffer += part
            content, self._buffer = self._buffer.split(b"\0", 1)
            found = json.loads(content)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def run(self, script):
        """The value of a script."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script):
        """The value of a script, once it is true."""
        for _ in range(600):
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def until(self, script, value):
        """Waits until a script has a value."""
        for _ in range(600):
            if (found := self.run(script)) == value:
                return
            time.sleep(0.05)
        raise AssertionError(f"{script}: got {found}, expected {value}")

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def text(self, text):
        self.call("Input.insertText", text=text)

    def key(self, *names):
        codes = {
            "ArrowDown": 40,
            "ArrowUp": 38,
            "Enter": 13,
            "Escape": 27,
            "Backspace": 8,
            "Tab": 9,
        }
        for name in names:
            for kind in ("rawKeyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=name,
                    code=name,
                    windowsVirtualKeyCode=codes[name],
                )

    def look(self, width=1100, height=900, scheme="light"):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def picture(self, path):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    def complaints(self):
        """Errors of scripts and of the content security policy, and requests to elsewhere."""
        found = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(parameters)
            elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(parameters["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not re.match(r"http://127\.0\.0\.1|data:|about:", url):
                    found.append(url)
        return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with contextlib.closing(Browser(tmp_path_factory.mktemp("browser"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def shop(serving, running, tmp_path_factory):
    """A service whose titles are hostile, with a list."""
    titles = serving.catalog.title
    before = list(titles)
    for row in range(0, len(titles), 2):
        titles[row] = f"{HOSTILE}{row}"
    stock = tmp_path_factory.mktemp("shop") / "stock"
    stock.write_text("\n".join(serving.catalog.short_id[:8]))
    with running(serving, files={"in_stock": str(stock)}) as client:
        yield client
    titles[:] = before


RESULTS = "[...document.querySelectorAll('#results .title')].map((one) => one.textContent)"
COUNT = "document.querySelectorAll('#results .result').length"


def test_a_history_is_typed_and_answered(browser, shop, serving):
    browser.events.clear()
    browser.look()
    browser.open(f"http://127.0.0.1:{shop.port}/")
    browser.wait(
        f"{COUNT} === 5 && document.getElementById('heading').textContent === 'Most popular'"
    )
    titles = dict(zip(serving.catalog.short_id, serving.catalog.title))

    browser.run("document.getElementById('history-input').focus()")
    browser.text("movie' 4")
    browser.wait("document.querySelectorAll('#history-choices li').length > 0")
    browser.key("Enter")
    browser.wait("document.getElementById('heading').textContent === 'Recommended'")
    browser.key("ArrowDown")  # what is popular, without a word
    browser.wait("!document.getElementById('history-choices').hidden")
    browser.key("ArrowDown", "ArrowDown", "Enter")
    browser.wait("document.querySelectorAll('#history li').length === 2")
    history = browser.run(
        "[...document.querySelectorAll('#history small')].map((one) => one.textContent)"
    )
    assert titles[history[0]] == f"{HOSTILE}4"
    _, found = shop.recommend(history, k=5)
    expected = [item["title"] for item in found["results"][0]["items"]]
    browser.until(RESULTS, expected)

    browser.run("document.querySelector('#results summary').click()")
    assert "by the model alone" in browser.run(
        "document.querySelector('#results details').innerText"
    )
    first = expected[0]
    browser.run("document.querySelectorAll('#results button')[1].click()")  # leave it out
    browser.wait(f"{COUNT} === 5 && {RESULTS}[0] !== {json.dumps(first)}")
    browser.run(
        "(() => { const one = document.querySelector('#list-rows select'); one.value = 'allow';"
        " one.dispatchEvent(new Event('change')); })()"
    )
    shops = {titles[name] for name in serving.catalog.short_id[:8]}
    browser.wait(f"{RESULTS}.every((one) => {json.dumps(sorted(shops))}.includes(one))")

    browser.run("document.getElementById('copy-python').click()")
    code = browser.wait("document.getElementById('code').textContent")
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    shown = browser.run(RESULTS)
    assert [line.split(" ", 1)[1] for line in printed.splitlines()] == shown
    browser.run("document.getElementById('copy-curl').click()")
    code = browser.wait(
        "document.getElementById('code').textContent.startsWith('curl') &&"
        " document.getElementById('code').textContent"
    )
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-c", code], capture_output=True, check=True)
        items = json.loads(done.stdout)["results"][0]["items"]
        assert [item["title"] for item in items] == shown
    assert browser.run("window.harm") is None
    assert browser.run("document.querySelectorAll('img, #results b').length") == 0
    assert browser.complaints() == []


def test_keys_alone_are_enough(browser, shop):
    browser.open(f"http://127.0.0.1:{shop.port}/")
    browser.wait(f"{COUNT} === 5")
    browser.run("document.getElementById('history-input').focus()")
    browser.text("I7")
    browser.wait("!document.getElementById('history-choices').hidden")
    browser.key("Escape")
    assert browser.run("document.getElementById('history-choices').hidden")
    browser.key("ArrowDown")
    browser.key("Enter")
    browser.wait("document.querySelectorAll('#history li').length === 1")
    browser.key("Backspace")
    browser.wait("document.querySelectorAll('#history li').length === 0")
    seen = []
    for _ in range(9):
        browser.key("Tab")
        seen.append(browser.run("document.activeElement.id"))
    assert {"k", "exclude", "rule-input"} <= set(seen)
    unnamed = browser.run(
        "[...document.querySelectorAll('input, select, button')].filter((one) => !one.hidden &&"
        " !(one.labels && one.labels.length) && !one.getAttribute('aria-label')"
        " && !one.textContent).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser, shop, scheme):
    browser.look(390, 844, scheme)
    browser.open(f"http://127.0.0.1:{shop.port}/")
    browser.wait(f"{COUNT} === 5")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    colours = browser.run(
        "[document.body, document.querySelector('section')].map((one) =>"
        " [getComputedStyle(one).color, getComputedStyle(one).backgroundColor])"
    )
    for text, ground in colours:
        assert _contrast(text, ground) > 7
    browser.open(f"http://127.0.0.1:{shop.port}/docs")
    assert browser.run("document.documentElement.scrollWidth") <= 390


def _contrast(one, other):
    """WCAG's ratio of two colours, rgb(…) each."""

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
