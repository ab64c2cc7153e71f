"""The runner: what passes, what must not, how each failure is named, and what is left behind."""

import base64
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4
from PIL import Image

import run_notebook as runner
from annotations import annotations, escaped
from drift import alike
from fork_engine import ForkEngine
from notebooks import ToolError, read
from outcomes import SHOWN_LIMIT, TEXT_LIMIT, Record, Step, Task, how_it_ended, read_stack
from plan import imported, plan, why_skip
from report_files import save_outputs, shrink_photographs
from run_notebook import outcomes, run_notebook
from timings import Timings

TOOL = Path(runner.__file__)
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


# --- notebooks to run, and ways to run them -------------------------------------------------------


def write(folder, name, *cells, **metadata):
    """Write a notebook: strings are code cells, those that start with `md:` are Markdown."""
    made = []
    for i, cell in enumerate(cells):
        new = v4.new_markdown_cell(cell[3:]) if cell.startswith("md:") else v4.new_code_cell(cell)
        new.id = f"id{i}"
        made.append(new)
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=made, metadata=metadata), path)
    return path


def make_project(root, **notebooks):
    """A project with these notebooks, each a list of cells; a name's first letter is dropped."""
    root.mkdir(exist_ok=True)
    (root / "settings.ini").write_text(
        "[DEFAULT]\nnbs_path = nbs\nlib_path = lib\ntimeout = 100\ncell_timeout = 50\n"
    )
    (root / "lib").mkdir(exist_ok=True)
    for name, cells in notebooks.items():
        write(root / "nbs", name[1:], *cells)
    return root


def run(root, *arguments, **options):
    """Run the command in a project; the environment of this process must not leak in."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("EXP_")}
    env |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        cwd=root, env=env, capture_output=True, text=True, timeout=100, **options,
    )  # fmt: skip


def read_junit(file):
    """Notebook -> list of (case, its failures), as a parser of JUnit XML sees them."""
    suites = {}
    for suite in ElementTree.parse(file).getroot().iter("testsuite"):
        cases = list(suite.iter("testcase"))
        assert int(suite.get("tests")) == len(cases)
        name = Path(suite.get("name")).stem
        suites[name] = [
            (case.get("name"), [f.get("message") for f in case.iter("failure")]) for case in cases
        ]
    return suites


def snapshot(root):
    """Each file of a project with its bytes, but for what may change: build/ and bytecode."""
    return {
        path: path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not {"build", "__pycache__"} & set(path.parts)
    }


def gone(*pids, within=5.0):
    """Whether these processes end soon."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        alive = [pid for pid in pids if psutil.pid_exists(pid)]
        alive = [pid for pid in alive if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.05)
    return False


# --- what must not pass ---------------------------------------------------------------------------

# name -> (cells, the number of the one that fails, how the failure is named)
THREAD = "import threading\ndef work():\n    {}1 / 0\nthreading.Thread(target=work).start()"
TASK = "import asyncio\nasync def work():\n    {}\ntask = asyncio.create_task(work())"
FAILING = {
    "assertion": (["x = 1", "md:## Part", "y = 2\nassert x == y, 'differs'\nz = 3"], 2,
                  "AssertionError: differs"),
    "magic": (["%nosuchmagic", "assert False"], 1, "UsageError.*nosuchmagic"),
    "magic_that_reports": (["%timeit -n 1 -r 1 1/0", "x = 1"], 1, "ZeroDivisionError"),
    "magic_that_logs": (["%config InlineBackend.figure_format =", "x = 1"], 1, "Error|magic"),
    "nested": (["get_ipython().run_cell('1/0')", "x = 1"], 1, "ZeroDivisionError"),
    "captured": (["%%capture\n1/0", "x = 1"], 1, "ZeroDivisionError"),
    "command": (["!false", "x = 1"], 1, "'false' returned non-zero exit status 1"),
    "command_captured": (["x = !echo out; exit 3"], 1, "exit status 3"),
    "bash": (["%%bash\nexit 4"], 1, "exit status 4"),
    "sys_exit": (["x = 1", "import sys\nsys.exit(0)", "assert False"], 2, "SystemExit: 0"),
    "exit": (["exit()", "assert False"], 1, r"exit\(\)"),
    "interrupted": (["raise KeyboardInterrupt"], 1, "KeyboardInterrupt"),
    "debugger": (["import bdb\nraise bdb.BdbQuit"], 1, "BdbQuit"),
    "thread": ([THREAD.format(""), "import time; time.sleep(0.2)"], None, "thread.*ZeroDivision"),
    "late_thread": ([THREAD.format("import time; time.sleep(0.3); ")], 0, "thread.*ZeroDivision"),
    "task": ([TASK.format("1 / 0"), "x = 1"], None, "ZeroDivisionError"),
    "late_task": ([TASK.format("await asyncio.sleep(0.2); 1 / 0")], 0, "awaited.*ZeroDivision"),
    "endless_task": ([TASK.format("await asyncio.sleep(100)")], 0, "task work is still running"),
    "task_exits": ([TASK.format("raise SystemExit(0)"), "await asyncio.sleep(0.1)"], None, "Exit"),
    "never_awaited": (["async def f(): pass\nf();", "x = 1"], None, "never awaited"),
    "destructor": (["class A:\n    def __del__(self): 1/0", "a = A()\ndel a"], 2,
                   "could not raise"),
    "at_exit": (["import atexit\n@atexit.register\ndef f(): 1/0"], 0, "ZeroDivisionError"),
    "warning": (["import warnings\nwarnings.simplefilter('error')", "warnings.warn('old')"], 2,
                "UserWarning: old"),
    "syntax": (["x = = 1"], 1, "SyntaxError"),
    "return_": (["return 1"], 1, "SyntaxError"),
    "transformer": (["class T:\n    def visit(self, node): raise ValueError('bad')\n"
                     "get_ipython().ast_transformers.append(T())", "x = 1"], 2, "AST transformer"),
    "input": (["input('name? ')"], 1, r"input\(\)"),
    "bad_repr": (["class E(Exception):\n    def __str__(self): 1/0\n    __repr__ = __str__",
                  "raise E"], 2, "E: "),
    "bad_display": (["class A:\n    def __repr__(self): 1/0", "A()"], 2, "ZeroDivisionError"),
    "os_exit": (["import os", "print('last words')\nos._exit(0)"], 2, r"exit code 0.*os\._exit"),
    "segfault": (["import ctypes", "def f():\n    ctypes.string_at(0)\nf()"], 2, "SIGSEGV"),
    "killed": (["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"], 1,
               "SIGKILL.*memory.*MiB"),
    "keeper_killed": (["import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"
                       "import time; time.sleep(60)"], 0, "watches over the notebook died"),
    "memory": (["import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))",
                "x = bytearray(2**33)"], 2, "MemoryError"),
    "endless": (["x = 0", "def spin():\n    print('here')\n    while True: pass", "spin()"], 3,
                "the cell took longer than 4 s"),
    "sleeps_in_c": (["import ctypes, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, "
                     "{signal.SIGINT, signal.SIGTERM})", "ctypes.PyDLL(None).sleep(60)"], 2,
                    "the cell took longer than 4 s"),
    "group": (["raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])"], 1, "- ValueError"),
    "cause": (["try:\n    1/0\nexcept ZeroDivisionError:\n    raise ValueError('b')"], 1,
              "ValueError: b"),
}  # fmt: skip
LEAVES_CHILDREN = """
import subprocess, sys
sleep = ["sleep", "1000"]
child = subprocess.Popen(sleep)
apart = subprocess.Popen(sleep, start_new_session=True)
code = f"import subprocess as s; print(s.Popen({sleep}, stdout=-3, start_new_session=True).pid)"
orphan = subprocess.check_output([sys.executable, "-c", code], text=True)
open("../build/pids", "w").write(f"{child.pid} {apart.pid} {orphan}")
"""
PASSING = {
    "magics": ["%%time\nx = 1", "!true", "x = !echo out\nassert x == ['out']",
               "try:\n    !false\nexcept Exception as e:\n    print(type(e).__name__)"],
    "awaits": ["import asyncio\nasync def f(): return 3\nassert await f() == 3",
               "task = asyncio.create_task(f())", "assert await task == 3"],
    "handled": ["async def f(): 1/0", "import asyncio\nt = asyncio.create_task(f())",
                "try: await t\nexcept ZeroDivisionError: pass"],
    "pool": ["from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\n"
             "assert pool.submit(lambda: 3).result() == 3"],
    "daemon": ["import threading, time\n"
               "threading.Thread(target=time.sleep, args=[60], daemon=True).start()"],
    "forks": ["import os\nif os.fork() == 0:\n    print('copy')\nelse:\n    os.wait()", "x = 1"],
    "nothing": [],
    "skips": ["#skip\nassert False", "#cuda\nassert False", "#slow\nassert False",
              "#| eval: false\nassert False", "#|skip\nassert False", "x = 1"],
    "all_skipped": ["#cuda\nassert False"],
    "pollutes": ["import lib.shared as s\ns.LEAK = 1\nimport sys\nsys.LEAK = 1"],
    "stays_clean": ["import sys, time\ntime.sleep(1)\nimport lib.shared as s",
                    "assert not hasattr(s, 'LEAK') and not hasattr(sys, 'LEAK')"],
    "at_work": ["import os, sys\nassert os.path.basename(os.getcwd()) == 'nbs'",
                "assert os.environ['EXP_NOTEBOOK'] == 'at_work'",
                "assert os.environ['EXP_DATA'] == 'sample' and os.environ['EXP_DEVICE'] == 'cpu'",
                "assert os.environ['OMP_NUM_THREADS'] == '1'",
                "!{sys.executable} -c 'import lib'",
                "assert __name__ == '__main__' and sys.argv[0].endswith('ipykernel_launcher.py')",
                "import threading\nassert threading.active_count() == 1",
                "assert not any('keeper' in p or p.endswith('tools') for p in sys.path)"],
    "leaves_children": [LEAVES_CHILDREN],
}  # fmt: skip


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All of these notebooks in one run, two at a time: each must come out as if it were alone."""
    root = make_project(tmp_path_factory.mktemp("everything"))
    (root / "lib" / "shared.py").touch()
    (root / "build").mkdir()
    for name, (cells, *_) in FAILING.items():
        write(root / "nbs", name, *cells)
    for name, cells in PASSING.items():
        write(root / "nbs", name, *cells)
    (root / "nbs" / "broken.ipynb").write_text("{")
    before = snapshot(root)
    done = run(root, "--jobs", 2, "--cell_timeout", 4, "--junit", "build/junit.xml")
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr
    done.root, done.changed = root, snapshot(root) != before
    done.junit = read_junit(root / "build" / "junit.xml")
    done.rows = dict(re.findall(r"^nbs/(\w+)\.ipynb  .*?(\w+)$", done.stdout, re.M))
    return done


def section(done, name):
    """What the report says of one notebook."""
    parts = done.stdout.split("─" * 80)
    return "".join(part for part in parts[1:] if part.startswith(f"\nnbs/{name}.ipynb"))


@POSIX
@pytest.mark.parametrize("name", FAILING)
def test_fails_and_is_named(everything, name):
    cells, number, what = FAILING[name]
    assert everything.rows[name] == "failed"
    failed = [(case, failures) for case, failures in everything.junit[name] if failures]
    assert failed
    case, failures = failed[0]
    if number is not None:
        assert case.startswith(f"cell {number} " if number else "as a whole")
    assert re.search(what, section(everything, name), re.S), section(everything, name)
    assert not failures[0].startswith("File ")


@POSIX
@pytest.mark.parametrize("name", PASSING)
def test_passes(everything, name):
    expected = "skipped" if name == "all_skipped" else "passed"
    assert everything.rows[name] == expected, section(everything, name)


@POSIX
def test_the_run_as_a_whole(everything):
    """One bad notebook hinders no other, the counts add up, and no file changes."""
    assert everything.returncode == 1
    assert everything.rows["broken"] == "failed" and "is not JSON" in everything.stdout
    last = everything.stdout.strip().split("\n")[-1]
    failed, passed = len(FAILING) + 1, len(PASSING) - 1
    assert last == f"{passed} passed, {failed} failed, 1 skipped"
    assert everything.stdout.count("\nnbs/") >= failed + passed
    assert not everything.changed
    assert everything.junit.keys() == everything.rows.keys()


@POSIX
def test_a_report_shows_where(everything):
    report = section(everything, "assertion")
    assert "nbs/assertion.ipynb · Part · cell 2 (id2)" in report
    assert re.search(r"^\s+1  y = 2\n--> +2  assert x == y, 'differs'\n +3  z = 3$", report, re.M)
    report = section(everything, "endless")
    assert "cell 2, line 3 in spin: while True: pass" in report and "here" in report
    assert "cell 2, line 2 in f: ctypes.string_at(0)" in section(everything, "segfault")
    assert "last words" in section(everything, "os_exit")
    assert "-->   1  ctypes.PyDLL(None).sleep(60)" in section(everything, "sleeps_in_c")
    assert "caused by ZeroDivisionError" in section(everything, "cause")


@POSIX
def test_cells_after_a_failure_did_not_run(everything):
    for name in ("magic", "sys_exit", "exit"):
        assert "AssertionError" not in section(everything, name)
    suites = ElementTree.parse(everything.root / "build" / "junit.xml").iter("testsuite")
    suite = next(suite for suite in suites if "sys_exit" in suite.get("name"))
    assert [c.find("skipped") is not None for c in suite.iter("testcase")] == [False, False, True]
    assert (suite.get("failures"), suite.get("skipped")) == ("1", "1")


@POSIX
def test_skipped_cells_are_counted(everything):
    assert re.search(r"nbs/skips.ipynb +1 \+ 5 skipped", everything.stdout)


@POSIX
def test_no_process_is_left_behind(everything):
    pids = [int(pid) for pid in (everything.root / "build" / "pids").read_text().split()]
    assert len(pids) == 3 and gone(*pids)
    ours = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == f"{everything.root}/nbs"]
    assert not ours


# --- what a notebook shows ------------------------------------------------------------------------

SHOWS = [
    "md:# Shows\n",
    "import os, sys\nprint('one'); print('two', file=sys.stderr); print('three')",
    "os.system('echo low'); print('ü'); _ = os.write(2, b'C\\n')\n!echo command; echo err >&2",
    "6 * 7",
    "6 * 7;",
    "from IPython.display import HTML, Markdown, clear_output, display, update_display\n"
    "display(HTML('<b>bold</b>'), Markdown('**m**'))",
    "handle = display('old', display_id='x')",
    "update_display('new', display_id='x')",
    "print('wrong'); clear_output(); print('right')\nclear_output(wait=True); display('last')",
    "import matplotlib.pyplot as plt\nfig, ax = plt.subplots(figsize=(1, 1)); ax.plot([1, 2])\n"
    "print('before the figure')",
    "class Table:\n    def _repr_html_(self): return '<table></table>'\n"
    "    def __repr__(self): return 'Table'\nTable()",
    "len?",
    "#cuda\n1/0",
]


def shown(path):
    """The outputs of each code cell in brief: (kind, text or mime types)."""
    found = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            found.append([
                (o.get("name", o.output_type), o.text) if o.output_type == "stream"
                else (o.output_type, o.data.get("text/plain"), *sorted(o.data))
                for o in cell.outputs
            ])  # fmt: skip
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A project run with --save by both engines, and twice by the first."""
    root = make_project(tmp_path_factory.mktemp("saved"))
    raw = nbformat.read(write(root / "nbs", "shows", *SHOWS), 4)
    raw.cells[-1].outputs = [v4.new_output("stream", text="from a GPU")]
    raw.cells[1].metadata = {"tags": ["kept"], "execution": {"iopub.status.idle": "2026"}}
    raw.metadata = {"language_info": {"name": "python", "version": "3.9.1"}, "widgets": {"x": {}},
                    "kernelspec": {"name": "python3", "display_name": "P"}}  # fmt: skip
    raw.cells[3].execution_count = 7
    nbformat.write(raw, root / "nbs" / "shows.ipynb")
    write(root / "nbs", "fails", "print('new')", "1/0")
    versions = []
    for engine in ("fork", "fork", "kernel"):
        done = run(root, "--save", "--engine", engine)
        assert "1 passed, 1 failed" in done.stdout, done.stdout + done.stderr
        versions.append((root / "nbs" / "shows.ipynb").read_bytes())
        assert not nbformat.read(root / "nbs" / "fails.ipynb", 4).cells[0].outputs
        if engine == "fork":
            by_fork = shown(root / "nbs" / "shows.ipynb")
    return root, versions, by_fork


@POSIX
def test_saved_outputs_are_those_of_jupyter(saved):
    root, _, by_fork = saved
    by_kernel = shown(root / "nbs" / "shows.ipynb")
    assert by_fork[0] == [("stdout", "one\n"), ("stderr", "two\n"), ("stdout", "three\n")]
    assert by_fork[1] == [("stdout", "low\nü\nC\ncommand\nerr\n")]
    assert by_fork[2:4] == [[("execute_result", "42", "text/plain")], []]
    assert by_fork[5] == [("display_data", "'new'", "text/plain")]
    assert by_fork[7] == [("display_data", "'last'", "text/plain")]
    figure = ("display_data", "<Figure size 100x100 with 1 Axes>", "image/png", "text/plain")
    assert by_fork[8] == [("stdout", "before the figure\n"), figure]
    for mine, kernels in list(zip(by_fork, by_kernel, strict=True))[2:]:
        assert mine == kernels  # the order of output past Python is a kernel's own affair


@POSIX
def test_saving_twice_gives_the_same_bytes(saved):
    root, (first, second, _), _ = saved
    assert first == second
    node = nbformat.reads(first.decode(), 4)
    nbformat.validate(node)
    assert nbformat.writes(node) + "\n" == first.decode()  # laid out as Jupyter does
    assert [cell.id for cell in node.cells] == [f"id{i}" for i in range(len(SHOWS))]
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None for cell in code)
    assert code[0].metadata == {"tags": ["kept"]}
    assert node.metadata == {"language_info": {"name": "python"},
                             "kernelspec": {"name": "python3", "display_name": "P"}}  # fmt: skip
    assert code[-1].outputs[0].text == "from a GPU"  # a cell that was skipped keeps its own


def test_a_large_film_stays_a_film():
    first, *others = (Image.effect_noise((400, 400), spread) for spread in (40, 60, 80))
    first.save(file := io.BytesIO(), "PNG", save_all=True, append_images=others)
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    film = v4.new_output("display_data", data, metadata={"image/png": {"width": 200}})
    shrink_photographs(film)
    assert film.data == data


@POSIX
def test_pictures_are_stored_sharp_and_the_same_each_time(tmp_path):
    plot = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots(figsize=(1, 1))\n"
    pixels = "import random\naxes.imshow([[random.Random(i).random()] for i in range(3000)]);"
    photograph = """
import numpy as np
y, x = np.mgrid[:300, :300] / 40
figure, axes = plt.subplots(figsize=(4, 4))
axes.imshow(np.sin(x) * np.cos(y) + np.random.default_rng(0).normal(0, 0.1, x.shape));"""
    cells = [plot + "axes.plot([1, 2]);", plot + pixels, photograph, "1 + 1"]
    root = make_project(tmp_path, a1=cells)
    (root / "settings.ini").write_text("[DEFAULT]\nfigures = svg, retina\n")
    versions = []
    for engine in ("fork", "kernel"):
        assert run(root, "--save", "--engine", engine).returncode == 0
        versions.append((root / "nbs" / "1.ipynb").read_bytes())
    assert versions[0] == versions[1]
    line, points, noisy, _ = nbformat.reads(versions[0].decode(), 4).cells
    assert set(noisy.outputs[0].data) == {"image/jpeg", "text/plain"}
    size = noisy.outputs[0].metadata["image/jpeg"]
    height = Image.open(io.BytesIO(base64.b64decode(noisy.outputs[0].data["image/jpeg"]))).height
    assert size["height"] in (height // 2, height / 2)
    assert set(line.outputs[0].data) == {"image/svg+xml", "text/plain"}
    assert "<dc:date>" not in line.outputs[0].data["image/svg+xml"]
    assert len(set(points.outputs[0].data) - {"text/plain"}) == 1  # the smaller one
    (root / "settings.ini").write_text("[DEFAULT]\nfigures = sgv\n")
    assert "no form sgv" in run(root, "--save").stderr
    assert run(root).returncode == 0  # a test stores none


@POSIX
def test_saving_touches_only_what_changes(tmp_path, monkeypatch):
    root = make_project(tmp_path, a1=["1 + 1"])
    monkeypatch.chdir(root)
    path = root / "nbs" / "1.ipynb"
    run_notebook(save=True)
    before = path.stat().st_mtime_ns
    results = run_notebook("1", save=True)
    assert path.stat().st_mtime_ns == before
    path.write_text(path.read_text().replace("1 + 1", "1 + 2"))  # by someone, while it ran
    save_outputs(results)
    assert not results.ok and "changed while it ran" in str(results)
    assert "1 + 2" in path.read_text() and list(path.parent.iterdir()) == [path]


@POSIX
def test_long_output_is_cut_with_the_count(tmp_path):
    lines = ["for i in range(1_000_000): print('line', i)", "print('after')"]
    root = make_project(tmp_path, alines=lines, atext=["print('x' * 10**7, end='')"])
    assert "2 passed" in run(root, "--save").stdout
    first = nbformat.read(root / "nbs" / "lines.ipynb", 4).cells[0].outputs
    start, cut, end = (output.text for output in first)
    assert len(start) == len(end) == TEXT_LIMIT // 2
    assert "1,000,000 lines, 11,888,890 characters" in cut
    assert start.startswith("line 0\n") and end.endswith("line 999999\n")
    assert "0 lines, 10,000,000 characters" in str(nbformat.read(root / "nbs" / "text.ipynb", 4))


def record_of(pieces):
    record = Record()
    record.begin(1)
    for name, text in pieces:
        record.text(name, text)
    return record.end()


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text())), st.data())
def test_how_printed_text_was_cut_into_pieces_does_not_show(printed, data):
    pieces = []
    for name, text in printed:
        cut = data.draw(st.integers(0, len(text)))
        pieces += [(name, text[:cut]), (name, text[cut:])]
    outputs = record_of(pieces)
    assert outputs == record_of(printed)
    assert "".join(o["text"] for o in outputs) == "".join(text for _, text in printed)
    names = [o["name"] for o in outputs]
    assert all(a != b for a, b in itertools.pairwise(names))


def test_too_many_displays_are_left_out():
    record = Record()
    record.begin(1)
    for _ in range(3):
        record.show({"output_type": "display_data", "data": {"image/png": "x" * (SHOWN_LIMIT // 2)},
                     "metadata": {}})  # fmt: skip
    assert [o["output_type"] for o in record.end()] == ["display_data", "display_data", "stream"]


# --- modules: the cell behind a line, and --exported ----------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A project whose modules were exported, run as it is and with --exported."""
    root = make_project(
        tmp_path_factory.mktemp("exported"),
        a01_good=["md:# Good", "#export\nfrom __future__ import annotations\nimport math",
                  "#export\nSCALE = 2\ndef half(x: Late) -> float:\n    return x / SCALE",
                  "assert half(4) == 2 and math.pi > 3", "#export\nclass Late: pass", "Late()"],
        a02_divides=["md:# Divides", "md:## Share", "#export\ndef share(x, n):\n"
                     "    part = x / n\n    return part"],
        a03_uses=["md:# Uses", "from lib.nb02 import share", "share(1, 0)"],
        a04_leans=["md:# Leans", "#export\ndef scaled(x):\n    return factor * x",
                   "factor = 3\nassert scaled(2) == 6"],
    )  # fmt: skip
    exporter = TOOL.with_name("notebook2script.py")
    leans = root / "nbs" / "04_leans.ipynb"
    text = leans.read_text()
    leans.write_text(text.replace("factor * x", "abs * x"))  # the exporter refuses such a name
    export = [sys.executable, exporter]
    done = subprocess.run(export, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    leans.write_text(text)
    module = root / "lib" / "nb04.py"
    module.write_text(module.read_text().replace("abs * x", "factor * x"))
    return run(root), run(root, "--exported")


@POSIX
def test_a_frame_in_a_module_names_its_cell(exported):
    plain, _ = exported
    report = section(plain, "03_uses")
    assert "cell 2, line 1: share(1, 0)" in report
    frame = r"lib/nb02\.py:\d+ = nbs/02_divides\.ipynb, cell 1 \(id2\), line 3 in share: part = x"
    assert re.search(frame, report), report


@POSIX
def test_exported_imports_what_the_cells_bind(exported):
    plain, through = exported
    assert "3 passed, 1 failed" in plain.stdout
    assert "2 passed, 1 failed" in through.stdout and "left out: 1 of 4" in through.stdout
    report = section(through, "04_leans")
    assert "name 'factor' is not defined" in report and "lib/nb04.py" in report


def test_pictures_of_the_exported_run_are_not_stored(tmp_path):
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    ask = """from matplotlib.figure import Figure
stores = Figure in get_ipython().display_formatter.formatters["image/png"].type_printers
raise RuntimeError(f"stores: {stores}")"""
    root = make_project(tmp_path, a1=[plot, ask])
    assert "stores: True" in run(root).stdout
    assert "stores: False" in run(root, "--exported").stdout


def test_what_stands_in_for_an_exported_cell(tmp_path):
    source = (
        "#export\nfrom __future__ import annotations\nimport os.path, numpy as np\n"
        "a, (b, *c) = 1, (2, 3)\nfor i in c: d = i\nif a:\n    def f(): inner = 1\n"
        "with open(os.devnull) as g: pass\nclass K:\n    x = 1"
    )
    notebook = read(write(tmp_path, "07_x", source, "#export\nprint('only this')"))
    text = imported(notebook.cells[0], notebook, "lib")
    future, line = text.split("\n")
    assert future == "from __future__ import annotations"
    assert line == "from lib.nb07 import os, np, a, b, c, d, f, g, K"
    assert imported(notebook.cells[1], notebook, "lib") == "import lib.nb07"
    bad = read(write(tmp_path, "08_x", "#export\n%time x = 1"))
    with pytest.raises(ToolError, match="cell 1 cannot be exported"):
        plan(bad, "lib", exported=True)


def test_why_a_cell_is_skipped(tmp_path):
    cells = ["#skip\nx", "#slow\nx", "#cuda\nx", "#| eval: false\nx", "# skip the rest\nx", "x",
             "#export\n#cuda\nx"]  # fmt: skip
    notebook = read(write(tmp_path, "x", *cells))

    def skipped(device, slow):
        return [bool(why_skip(cell, device, slow)) for cell in notebook.cells]

    assert skipped("cpu", False) == [True, True, True, True, False, False, True]
    assert skipped("cuda", True) == [True, False, False, True, False, False, False]


def test_exported_leaves_out_experiments_and_what_needs_them(tmp_path):
    cells = ["#export\ndef f(x): return x", "n = 1", "#experiment\nn = found = f(2)",
             "def show():\n    print(found)", "show()", "found += 1", "n = f(3)", "n == 3",
             "found = 4; [found for m in (1, 2)]", "assert found == 4",
             "#experiment\ng = f(4)", "#export\ndef g(): return 5", "g()"]  # fmt: skip
    notebook = read(write(tmp_path, "01_x", *cells))

    def left_out(**options):
        steps = plan(notebook, "lib", **options).steps
        return {step.number: step.skip.partition(":")[0] for step in steps if step.skip}

    assert left_out() == left_out(exported=True) == {}
    needs = {3: "#experiment", 4: "found", 5: "show", 6: "found", 11: "#experiment"}
    assert left_out(exported=True, brief=True) == needs


def test_exported_leaves_out_what_exports_nothing(tmp_path, monkeypatch):
    root = make_project(tmp_path, a01_x=["#export\nx = 1"], a02_y=["1 + 1"])
    (root / "lib" / "nb01.py").write_text("x = 1\n")
    monkeypatch.chdir(root)
    names = lambda results: [result.notebook.path.stem for result in results]  # noqa: E731
    brief = run_notebook(exported=True)
    assert brief.ok and names(brief) == ["01_x"]
    assert "left out: 1 of 2, which export nothing" in str(brief)
    assert names(run_notebook(exported=True, experiments=True)) == ["01_x", "02_y"]
    alone = run_notebook("02_y", exported=True)  # asked for by name
    assert alone.ok and names(alone) == ["02_y"]


def test_an_answer_to_an_exercise_is_its_readers_own(tmp_path, monkeypatch):
    """It does not run, does not count, and keeps what the reader's own run showed."""
    root = make_project(tmp_path, a1=["x = 1", "#exercise\nassert x == 2", "x"])
    path = root / "nbs" / "1.ipynb"
    made = nbformat.read(path, 4)
    made.cells[1].outputs = [v4.new_output("stream", text="not yet")]
    nbformat.write(made, path)
    monkeypatch.chdir(root)
    results = run_notebook(save=True)
    (result,) = results
    assert results.ok and [step.number for step in result.task.steps] == [1, 3]
    _, answer, shown = nbformat.read(path, 4).cells
    assert answer.outputs[0].text == "not yet" and shown.outputs[0].data["text/plain"] == "1"
    path.write_text(path.read_text().replace("x == 2", "x == 3"))
    assert "1 unchanged" in str(run_notebook())


# --- the end, however it comes --------------------------------------------------------------------

HANGS = ["import os, subprocess, time\nchild = subprocess.Popen(['sleep', '1000'])\n"
         "apart = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
         "open(f'../build/{os.getpid()}', 'w').write(f'{os.getppid()} {child.pid} {apart.pid}')",
         "time.sleep(1000)"]  # fmt: skip


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_signal_to_the_runner_alone_leaves_nothing(tmp_path, name):
    root = make_project(tmp_path, a1=HANGS, a2=HANGS, a3=["x = 1"])
    (root / "build").mkdir()
    runner = subprocess.Popen(
        [sys.executable, TOOL, "--jobs", "2"], cwd=root, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until = time.monotonic() + 30
    while len(notes := [f for f in (root / "build").iterdir() if f.stat().st_size]) < 2:
        assert time.monotonic() < until and runner.poll() is None
        time.sleep(0.05)
    pids = [int(pid) for note in notes for pid in [note.name, *note.read_text().split()]]
    pids += [child.pid for child in psutil.Process(runner.pid).children()]
    assert len(pids) == 9 and not gone(*pids, within=0.1)
    runner.send_signal(getattr(signal, name))
    out, err = runner.communicate(timeout=20)
    assert gone(*pids), "a process is left"
    if name != "SIGKILL":
        assert runner.returncode == 1 and "Traceback" not in err
        assert out.count(f"stopped: the runner got {name}") == 2
        assert out.strip().endswith("0 passed, 2 failed, 0 skipped, 1 not run")
        assert re.search(r"nbs/1\.ipynb · .*cell 2", out)


@POSIX
def test_a_notebook_over_its_time_ends_and_others_go_on(tmp_path):
    root = make_project(tmp_path, a1=["import time"] + ["time.sleep(0.6)"] * 10, a2=["x = 1"])
    done = run(root, "--timeout", 3, "--jobs", 1)
    assert "the notebook took longer than 3 s" in done.stdout
    assert "1 passed, 1 failed" in done.stdout


@POSIX
def test_fail_fast_starts_nothing_more(tmp_path):
    root = make_project(tmp_path, a1=["1/0"], a2=["x = 1"], a3=["x = 1"])
    done = run(root, "--fail_fast", "--jobs", 1)
    assert "0 passed, 1 failed, 0 skipped, 2 not run" in done.stdout and done.returncode == 1


@POSIX
def test_a_dead_server_fails_each_notebook(tmp_path):
    task = Task(str(write(tmp_path, "x", "x = 1")), (Step(1, "x = 1"),))
    with ForkEngine({}, []) as engine:
        engine.server.kill()
        engine.server.wait()
        found = list(outcomes([task, task], engine, 2, False))
    assert [o.status for o in found] == ["failed", "failed"]
    assert "died" in found[0].failures[0].what


def test_the_ways_to_end_have_names():
    assert "exit code 3" in how_it_ended(3)
    assert "SIGSEGV" in how_it_ended(-signal.SIGSEGV)
    assert "memory runs out; it held up to 2,048 MiB" in how_it_ended(-9, 2 * 2**20)


def test_a_stack_is_read_from_the_thread_of_the_cell():
    text = (
        'Thread 0x1 (most recent call first):\n  File "/lib/threading.py", line 5 in run\n\n'
        'Current thread 0x2 (most recent call first):\n  File "/lib/a.py", line 7 in f\n'
        '  File "<ipython-input-4-abc123>", line 2 in <module>\n'
        '  File "/x/shell.py", line 1 in run\n'
        "\nExtension modules: numpy (total: 1)\n"
    )
    frames, details = read_stack(text)
    assert frames == ((4, 2, "<module>"), ("/lib/a.py", 7, "f"))
    assert "Extension" not in details


# --- the command and the function -----------------------------------------------------------------


@POSIX
def test_two_jobs_share_cores_and_time(tmp_path):
    cell = "import time\nstart = time.time()\ntime.sleep(1.5)\nprint(start, time.time())"
    root = make_project(tmp_path, a1=[cell], a2=[cell])
    assert run(root, "--jobs", 2, "--save").returncode == 0
    printed = [shown(root / "nbs" / f"{n}.ipynb")[0][0][1] for n in (1, 2)]
    (start1, end1), (start2, end2) = (map(float, text.split()) for text in printed)
    assert start1 < end2 and start2 < end1


def test_the_slowest_of_the_last_run_comes_first(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    seconds = {"sample cpu": {"nbs/1.ipynb": 1.0, "nbs/2.ipynb": 3.0}}
    (tmp_path / "build" / "timings.json").write_text(json.dumps(seconds))
    timings = Timings(runner.settings(), "sample", "cpu")
    paths = [Path(f"nbs/{n}.ipynb") for n in (1, 2, 3)]
    assert [p.stem for p in timings.slowest_first(paths)] == ["3", "2", "1"]
    other = Timings(runner.settings(), "full", "cpu")
    assert other.slowest_first(paths) == paths
    exported = Timings(runner.settings(), "sample", "cpu", "exported")
    assert [p.stem for p in exported.slowest_first(paths)] == ["3", "2", "1"]


def test_mistakes_of_the_user_are_explained(tmp_path):
    root = make_project(tmp_path, a1=["x = 1"])
    for arguments, what in {
        ("--nosuch", "1"): "unknown flag --nosuch",
        ("nowhere.ipynb",): "there is no notebook nowhere.ipynb",
        ("--device", "tpu"): "cpu, cuda or auto",
        ("--data", "none"): "sample or full",
        ("--engine", "steam"): "fork",
        ("--save", "--exported"): "leave out --exported",
        ("--nbs", "empty"): "no notebook in empty",
        ("--html",): "--html needs a value",
    }.items():
        done = run(root, *arguments)
        assert done.returncode == 1 and what in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif("cuda" in os.environ.get("EXP_DEVICE", ""), reason="there may be a device")
def test_cuda_where_there_is_none_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    root = make_project(tmp_path, a1=["#cuda\nassert False"])
    done = run(root, "--device", "cuda")
    assert done.returncode == 1 and "no CUDA device" in done.stderr
    assert "1 skipped" in run(root, "--device", "auto").stdout


@POSIX
def test_a_flag_before_a_notebook_is_a_flag(tmp_path):
    root = make_project(tmp_path, a1=["x = 1"], a2=["1/0"])
    assert "1 passed, 0 failed" in run(root, "--slow", "nbs/1.ipynb").stdout


@POSIX
def test_as_a_function_it_returns_results(tmp_path, monkeypatch, capfd):
    """Called from a process with threads, as a notebook is, while a signal handler is in place."""
    root = make_project(tmp_path, a1=["x = 1"], a2=["1/0"])
    monkeypatch.chdir(root)
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    handler = signal.getsignal(signal.SIGINT)
    results = run_notebook("1", root / "nbs" / "2.ipynb")
    stop.set()
    assert signal.getsignal(signal.SIGINT) is handler
    assert not results.ok and [r.status for r in results] == ["passed", "failed"]
    assert repr(results).endswith("1 passed, 1 failed, 0 skipped")
    assert results.results[1].outcomes[1].failures[0].what.startswith("ZeroDivisionError")


@POSIX
def test_a_notebook_can_run_notebooks(tmp_path):
    outer = [f"import sys\nsys.path.insert(0, {str(TOOL.parent)!r})",
             "from run_notebook import run_notebook",
             "results = run_notebook('../inner/bad.ipynb')\nresults",
             "assert not results.ok and 'cell 2' in str(results)"]  # fmt: skip
    root = make_project(tmp_path, aouter=outer)
    write(root / "inner", "bad", "x = 0", "1 / x")
    done = run(root)
    assert "1 passed" in done.stdout, done.stdout


def test_the_modules_import_where_there_is_no_fork(tmp_path):
    """As on Windows: none of what only Unix has is touched on import."""
    code = (
        "import os, signal, socket, select\n"
        "for module, names in ((os, 'fork killpg setsid'), (signal, 'SIGUSR1 SIGCHLD SIGKILL'),\n"
        "                      (socket, 'send_fds recv_fds'), (select, 'poll')):\n"
        "    for name in names.split():\n"
        "        if hasattr(module, name): delattr(module, name)\n"
        "import run_notebook, host, watch\n"
        "try: run_notebook.start([], run_notebook.settings(), 'fork', 1, 'cpu', 'sample')\n"
        "except run_notebook.ToolError as error: print(error)\n"
    )
    env = os.environ | {"PYTHONPATH": str(TOOL.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "not on Windows" in done.stdout, done.stderr


@POSIX
def test_the_server_has_no_threads():
    """A fork of a process with threads may hang: what is imported once must start none."""
    modules = list(runner.WARM.values())
    task = Task(str(Path(__file__)), (Step(1, COUNT_THREADS),))
    with ForkEngine({"OMP_NUM_THREADS": "2"}, modules) as engine:
        cell, whole = engine.run(task)
    assert cell.status == "passed" and whole.status == "passed", cell.failures


COUNT_THREADS = """
import psutil, sys
server = psutil.Process().parent().parent()
assert "keeper.py" in " ".join(server.cmdline()) and server.num_threads() == 1
assert "torch" not in sys.modules
assert any("torch._dynamo" in getattr(finder, "hidden", ()) for finder in sys.meta_path)
"""


# --- a real kernel --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """A choice of the notebooks above in Jupyter kernels."""
    root = make_project(tmp_path_factory.mktemp("kernel"))
    chosen = ["assertion", "magic", "thread", "late_task", "os_exit", "endless"]
    for name in chosen:
        write(root / "nbs", name, *FAILING[name][0])
    for name in ("magics", "skips"):
        write(root / "nbs", name, *PASSING[name])
    done = run(root, "--engine", "kernel", "--cell_timeout", 4)
    done.rows = dict(re.findall(r"^nbs/(\w+)\.ipynb  .*?(\w+)$", done.stdout, re.M))
    done.chosen = chosen
    return done


def test_a_kernel_gives_the_same_outcomes(kernel):
    failed = dict.fromkeys(kernel.chosen, "failed")
    assert kernel.rows == failed | {"magics": "passed", "skips": "passed"}, kernel.stdout
    for name in kernel.chosen:
        _, number, what = FAILING[name]
        report = section(kernel, name)
        assert re.search(what, report, re.S), report
        if number:
            assert f"cell {number} (id" in report


# --- the book -------------------------------------------------------------------------------------


@POSIX
def test_the_book_resolves_its_links(tmp_path):
    from bs4 import BeautifulSoup

    root = make_project(tmp_path, a01_one=["md:# One\n\n[next](02_two.ipynb)", "6 * 7"],
                        a02_two=["md:# Two", "1/0"])  # fmt: skip
    done = run(root, "--html", "build/book")
    assert "1 passed, 1 failed" in done.stdout, done.stderr
    files = (root / "build" / "book").glob("*.html")
    pages = {file.name: BeautifulSoup(file.read_text(), "html.parser") for file in files}
    assert {"index.html", "01_one.html", "02_two.html"} <= pages.keys()
    assert "42" in pages["01_one.html"].text and "ZeroDivisionError" in pages["02_two.html"].text
    for page in pages.values():
        for link in page.find_all("a", href=True):
            file, _, anchor = link["href"].partition("#")
            if ":" not in file:
                target = pages[file] if file else page
                assert not anchor or target.find(id=anchor)


def test_empty_cells_are_not_run_or_counted(tmp_path):
    """Jupyter gives them no number either."""
    cells = [nbformat.v4.new_code_cell(text) for text in ("", "x = 1", " \n", "assert x == 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_a.ipynb")
    for engine in ("fork", "kernel"):
        results = run_notebook(str(tmp_path / "01_a.ipynb"), engine=engine)
        (task,) = (result.task for result in results)
        assert results.ok and [step.number for step in task.steps] == [1, 2]


def test_failures_are_annotations_on_github(tmp_path, monkeypatch, capsys):
    root = make_project(tmp_path, a1=["x = 0", "# a 50% chance\n1 / x"])
    path = root / "nbs" / "1.ipynb"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    monkeypatch.chdir(root)
    results = run_notebook()
    assert list(annotations(results)) == []
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (line,) = annotations(results)
    match = re.fullmatch(r"::error file=nbs/1.ipynb,line=(\d+),title=cell 2 \(\w+\)::(.+)", line)
    assert "1 / x" in path.read_text().split("\n")[int(match[1]) - 1]
    assert "ZeroDivisionError" in match[2] and "\n" not in line
    assert escaped("50%\n") == "50%25%0A"


def test_parameters_of_a_run(tmp_path, monkeypatch):
    root = make_project(tmp_path, a1=["n, name = 1, 'a'", "assert (n, name) == (3, 'b')"])
    raw = nbformat.read(root / "nbs" / "1.ipynb", 4)
    raw.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(raw, root / "nbs" / "1.ipynb")
    monkeypatch.chdir(root)
    assert not run_notebook().ok
    assert run_notebook(params="n=3, name='b'").ok and run_notebook(params={"n": 3, "name": "b"}).ok
    assert not run_notebook(params="n=2").ok
    before = (root / "nbs" / "1.ipynb").read_text()
    run_notebook(params="n=3, name='b'", save=True)
    after = nbformat.reads((root / "nbs" / "1.ipynb").read_text(), 4)
    assert after.cells[0].source == nbformat.reads(before, 4).cells[0].source
    assert "binds n, name" in str(run_notebook(params="m=2"))
    write(root / "nbs", "1", "x = 1")
    assert "the tag `parameters`" in str(run_notebook(params="n=2"))
    for wrong in ("n", "n=m", "n=3,,"):
        with pytest.raises(ToolError, match="--params is like"):
            run_notebook(params=wrong)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=30), st.integers(1, 8), st.data())
def test_shards_are_all_notebooks_each_once_and_balanced(tmp_path_factory, times, count, data):
    paths = [Path(f"{i}.ipynb") for i in range(len(times))]
    timings = Timings.__new__(Timings)
    forgotten = data.draw(st.sets(st.integers(0, len(times) - 1)))
    timings.last = {str(p): t for i, (p, t) in enumerate(zip(paths, times, strict=True))
                    if i not in forgotten}  # fmt: skip
    parts = [timings.shard(paths, number, count) for number in range(1, count + 1)]
    assert sorted(path for part in parts for path in part) == sorted(paths)
    if not forgotten:
        costs = [sum(times[int(path.stem)] for path in part) for part in parts]
        assert max(costs) <= sum(times) / count + max(times)


def test_a_shard_runs_its_part(tmp_path, monkeypatch):
    root = make_project(tmp_path, a1=["x = 1"], a2=["x = 1"], a3=["x = 1"])
    monkeypatch.chdir(root)
    names = [r.notebook.path.stem for part in ("1/2", "2/2") for r in run_notebook(shard=part)]
    assert sorted(names) == ["1", "2", "3"]
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ToolError, match="--shard"):
            run_notebook(shard=wrong)


def test_drift_compares_what_is_saved_with_what_is_shown(tmp_path, monkeypatch):
    noisy = "import os\nprint('at', id(object()), 0xfff, os.getpid())"
    root = make_project(tmp_path, a1=["x = 1.0", "print(f'loss {x:.3f}\\nof 3 runs')", noisy, "x"])
    monkeypatch.chdir(root)
    path = root / "nbs" / "1.ipynb"
    assert "'loss 1.000', and '' is saved" in str(run_notebook(drift=0.01))  # nothing is saved yet
    raw = nbformat.read(path, 4)
    raw.cells[2].metadata["tags"] = ["drifts"]
    nbformat.write(raw, path)
    run_notebook(save=True)
    assert run_notebook(drift=0).ok
    for x, ok in (("1.004", True), ("1.2", False), ("float('nan')", False)):
        path.write_text(re.sub(r"x = [^\"]+", f"x = {x}", path.read_text()))
        results = run_notebook(drift=0.01)
        assert results.ok == ok, str(results)
    assert "1.ipynb · cell 2" in str(results) and "is saved" in str(results)
    with pytest.raises(ToolError, match="--drift"):
        run_notebook(drift="much")


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(["{:g}", "{:,.2f}"])
)
def test_a_line_is_like_itself_and_unlike_another(value, form):
    line = "loss " + form.format(value)
    assert alike(line, line, 0.0) and alike(line, line.replace(" ", "   "), 0.0)
    assert not alike(line, line + " 1", 0.5) and not alike(line, "lose" + line[4:], 0.5)
    if abs(value) > 1:
        assert not alike(line, "loss " + form.format(2 * value), 0.1)
