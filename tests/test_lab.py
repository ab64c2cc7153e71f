"""A reader's hours in JupyterLab: run, edit, save, export, see the change in a later notebook."""

import json
import os
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
        server.wait(30)


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path / "profile")
    browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=800,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
    yield browser
    browser.close()


class Page:
    """A notebook that is open in JupyterLab."""

    HERE = "window.jupyterapp?.shell.currentWidget"

    def __init__(self, browser: Browser, lab: str, name: str):
        self.browser = browser
        browser.go(f"{lab}/lab/tree/nbs/{name}.ipynb?reset")
        ready = f"{self.HERE}?.context?.path === 'nbs/{name}.ipynb' && {self.HERE}.context.isReady"
        browser.wait_for(
            f"{ready} && {self.HERE}.sessionContext.session?.kernel?.status === 'idle'"
        )

    def command(self, name: str) -> None:
        self.browser.run(f"window.jupyterapp.commands.execute({name!r}).then(() => 1)")

    def type_into(self, number: int, text: str) -> None:
        """Replace what a cell holds, with the keyboard."""
        self.browser.run(f"({self.HERE}.content.activeCellIndex = {number}, "
                         f"{self.HERE}.content.mode = 'edit', 1)")  # fmt: skip
        self.browser.wait_for("document.activeElement.classList.contains('cm-content')")
        for kind in ("keyDown", "keyUp"):
            commands = ["selectAll"] if kind == "keyDown" else []
            self.browser.call("Input.dispatchKeyEvent", type=kind, key="a", code="KeyA",
                              modifiers=2, commands=commands)  # fmt: skip
        self.browser.call("Input.insertText", text=text)

    def shown(self, number: int) -> str:
        return self.browser.run(f"{self.HERE}.content.widgets[{number}].outputArea.node.innerText")


@NEEDS_BROWSER
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_run_edit_save_export_and_see_the_change_in_a_later_notebook(project, lab, browser):
    first = Page(browser, lab, "01_first")
    first.command("notebook:run-all-cells")
    assert [first.shown(n).strip() for n in (1, 2, 3)] == ["", "3", ""]  # and tqdm misses nothing
    first.command("docmanager:save")
    counts = [c.get("execution_count") for c in read(Path("nbs/01_first.ipynb")).raw["cells"]]
    assert counts == [None, 1, 2, 3], "it was run and saved"
    assert git("diff") == "" and git("status", "--porcelain") == ""

    first.type_into(1, "#export\ndef size():\n    return 4")
    first.command("docmanager:save")
    lines = [line for line in git("diff", "-U0", "nbs").splitlines() if line[:1] in "+-"]
    assert lines[2:] == ['-    return 3"', '+    return 4"'] or [
        json.loads(line[1:].strip().rstrip(",")) for line in lines[2:]
    ] == ["    return 3", "    return 4"]
    told = subprocess.run([sys.executable, TOOLS / "notebook2script.py"], capture_output=True)
    assert told.stdout.decode() == "converted nbs/01_first.ipynb -> lib/nb01.py\n"

    later = Page(browser, lab, "02_later")
    later.command("notebook:run-all-cells")
    assert later.shown(2).strip() == "size 4"
