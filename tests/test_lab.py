"""A reader's hours in JupyterLab: run, edit, save, export, see the change in a later notebook."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from browser import NEEDS_BROWSER, Browser
from made_notebooks import cell, save

from notebook2script import notebook2script
from notebooks import read
from run_notebook import run_notebook

TOOLS = Path(__file__).parents[1] / "tools"
PAGES = {
    "01_first": ["#export\ndef size():\n    return 3", "from tqdm.auto import tqdm\nsize()",
                 "#exercise\n# check_size(size)"],
    "02_later": ["from lib.nb01 import size", "print('size', size())"],
}  # fmt: skip
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNEL}
NOWHERE = "/proc/no/home"  # as in a container whose user has no home


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that was run and committed, with the filter that `make` sets up."""
    root = tmp_path / "project"
    for name, sources in PAGES.items():
        cells = [cell(f"# {name}", "title", "markdown")]
        save(root / "nbs" / f"{name}.ipynb", *cells, *sources, metadata=METADATA)
    (root / "settings.ini").write_text("[DEFAULT]\nnbs_path = nbs\nlib_path = lib\n")
    (root / ".gitattributes").write_text("*.ipynb filter=notebooks\n")
    (root / ".gitignore").write_text("build\n__pycache__\n.ipynb_checkpoints\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", NOWHERE)
    git("init", "-q", "-b", "main")
    for key, value in {
        "filter.notebooks.clean": f"{sys.executable} -S {TOOLS / 'clean_notebook.py'}",
        "user.name": "reader", "user.email": "reader@example.org",
    }.items():  # fmt: skip
        git("config", key, value)
    notebook2script()
    assert run_notebook(save=True, jobs=1).ok
    git("add", ".")
    git("commit", "-qm", "as it came")
    return root


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def lab(project, tmp_path):
    """The address of a JupyterLab that was started as `make lab` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"PYTHONPATH": str(project), "JUPYTER_NO_CONFIG": "1"}
    env |= {f"JUPYTER_{part}_DIR": str(tmp_path / part) for part in ("CONFIG", "DATA", "RUNTIME")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
         "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--LabApp.news_url=None",
         "--LabApp.expose_app_in_browser=True",
         "--ServerApp.jpserver_extensions={'nbdime': False, 'jupyter_lsp': False}"],
        env=env, stdout=subprocess.DEVNULL, stderr=open(tmp_path / "lab.log", "w"),
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urlopen(f"{address}/api").close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=800,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
    yield browser
    browser.close()


class Page:
    """A notebook that is open in JupyterLab."""

    HERE = "window.page"

    def __init__(self, browser: Browser, lab: str, name: str):
        self.browser = browser
        browser.go(f"{lab}/lab/tree/nbs/{name}.ipynb?reset")
        opened = f"widget => widget.context?.path === 'nbs/{name}.ipynb'"
        widgets = "[...(window.jupyterapp?.shell.widgets('main') ?? [])]"
        idle = f"{self.HERE}.sessionContext.session?.kernel?.status === 'idle'"
        ready = f"({self.HERE} = {widgets}.find({opened})) && {self.HERE}.context.isReady"
        browser.wait_for(f"{ready} && {idle}")
        browser.run(f"(window.jupyterapp.shell.activateById({self.HERE}.id), 1)")
        browser.wait_for(f"window.jupyterapp.shell.currentWidget === {self.HERE}")

    def command(self, name: str) -> None:
        self.browser.run(f"window.jupyterapp.commands.execute({name!r}).then(() => 1)")

    def type_at_end(self, number: int, *keys: str) -> None:
        """Type behind what a cell holds: single characters, or keys such as Backspace."""
        self.browser.run(f"({self.HERE}.content.activeCellIndex = {number}, "
                         f"{self.HERE}.content.mode = 'edit', "
                         f"{self.HERE}.content.widgets[{number}].editor.focus(), 1)")  # fmt: skip
        self.browser.wait_for("document.activeElement.classList.contains('cm-content')")
        self.press("End", 35, modifiers=2)
        for key in keys:
            if key == "Backspace":
                self.press(key, 8)
            else:
                self.browser.call("Input.insertText", text=key)

    def press(self, key: str, code: int, modifiers: int = 0) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                              windowsVirtualKeyCode=code, modifiers=modifiers)  # fmt: skip

    def shows(self, number: int, text: str) -> bool:
        """Whether this is what a cell shows, now or in a moment."""
        parts = (
            f"{self.HERE}.content.widgets[{number}].node.querySelectorAll('.jp-OutputArea-output')"
        )
        shown = f"[...{parts}].map(part => part.innerText.trim()).join(' ')"
        return self.browser.wait_for(f"{shown} === {text!r}", 20)

    def holds(self, number: int, text: str) -> bool:
        model = f"{self.HERE}.content.widgets[{number}].model.sharedModel"
        return self.browser.wait_for(f"{model}.getSource().endsWith({text!r})", 20)


@NEEDS_BROWSER
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_run_edit_save_export_and_see_the_change_in_a_later_notebook(project, lab, browser):
    first = Page(browser, lab, "01_first")
    first.command("notebook:run-all-cells")
    assert all(first.shows(n, text) for n, text in ((1, ""), (2, "3"), (3, "")))  # nor a warning
    first.command("docmanager:save")
    counts = [c.get("execution_count") for c in read(Path("nbs/01_first.ipynb")).raw["cells"]]
    assert counts == [None, 1, 2, 3], "it was run and saved"
    assert git("diff") == "" and "??" not in git("status", "--porcelain")

    first.type_at_end(1, "Backspace", "4")
    assert first.holds(1, "return 4")
    first.command("docmanager:save")
    changed = [line for line in git("diff", "-U0").splitlines() if re.match("[-+] ", line)]
    assert [line[0] + json.loads(line[1:]) for line in changed] == [
        "-    return 3", "+    return 4"]  # fmt: skip
    exporter = [sys.executable, TOOLS / "notebook2script.py"]
    told = subprocess.run(exporter, capture_output=True, text=True).stdout
    assert told == "converted nbs/01_first.ipynb -> lib/nb01.py\n"

    later = Page(browser, lab, "02_later")
    later.command("notebook:run-all-cells")
    assert later.shows(2, "size 4")
