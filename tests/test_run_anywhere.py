"""The runner elsewhere: in a stranger's folder, on a full disk, on a terminal of another kind."""

import ast
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_run_notebook import POSIX, make_project, snapshot, write

import outcomes
import run_notebook as runner
from outcomes import Record

TOOL = Path(runner.__file__)
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("EXP_", "MPL"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def run(root, *arguments, env=(), **options):
    """Run the command in a folder; output that cannot be decoded would fail here."""
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], cwd=root, env=ENVIRONMENT | dict(env),
        **({"stdout": -1, "stderr": -1, "text": True, "timeout": 100} | options),
    )  # fmt: skip


# --- the report is never lost --------------------------------------------------------------------


def complete(done, *more):
    """The run shows its table and its failures, and is not green."""
    assert done.returncode == 1 and "Traceback (most recent" not in done.stderr, done.stderr
    for text in ("ZeroDivisionError", "1 passed, 1 failed, 0 skipped", *more):
        assert text in done.stdout, done.stdout


@POSIX
@pytest.mark.parametrize("option", ["junit", "html"])
@pytest.mark.parametrize("target", ["/proc/nowhere/x", "file/x", "\0"])
def test_an_unwritable_report(tmp_path, option, target):
    root = make_project(tmp_path, a1=["x = 1"], a2=["1/0"])
    (root / "file").touch()
    if target == "\0":
        target = "x" * 300  # too long a name
    complete(run(root, f"--{option}", target), f"--{option} {target} could not be written")


@POSIX
def test_a_notebook_edited_during_a_run(tmp_path):
    """It stays as it is; the others are saved."""
    edit = "import pathlib\nfile = pathlib.Path('2.ipynb')\nfile.write_text(file.read_text() + ' ')"
    touch = "import json\nfile.write_text(file.read_text().replace('x = 1', 'x = 2'))"
    root = make_project(tmp_path, a1=[edit, touch, "6 * 7"], a2=["x = 1"], a3=["1/0"], a4=["6 * 7"])
    done = run(root, "--save", "--jobs", 1)
    assert done.returncode == 1 and "3 passed, 1 failed" in done.stdout, done.stdout
    what = "nbs/2.ipynb: its outputs are not saved: the notebook changed while it ran"
    assert what in done.stdout
    assert "x = 2" in (root / "nbs" / "2.ipynb").read_text()
    for name in ("1", "4"):
        assert '"42"' in (root / "nbs" / f"{name}.ipynb").read_text()


@POSIX
def test_a_full_disk(tmp_path):
    """No file can grow, or hardly: every notebook still runs, and stays whole."""
    root = make_project(tmp_path, a1=["6 * 7"], a2=["1/0"])
    before = snapshot(root / "nbs")
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))}
    done = run(root, "--save", "--junit", "x.xml", "--html", "book", **full)
    complete(done, "outputs are not saved", "--junit x.xml could not", "--html book could not")
    assert snapshot(root / "nbs") == before


@POSIX
def test_nowhere_to_print(tmp_path):
    """A full device, or a reader that has gone: not green, and no traceback."""
    root = make_project(tmp_path, a1=["x = 1"])
    with open("/dev/full", "w") as full:
        done = run(root, stdout=full)
    assert done.returncode == 1 and done.stderr == ""
    command = f"'{sys.executable}' '{TOOL}' | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=root, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 1 and done.stderr == b""


@POSIX
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_a_terminal_of_another_encoding(tmp_path, encoding):
    root = make_project(tmp_path, a1=["x = 1"], a2=["print('漢字 → ü')\n1/0"])
    done = run(root, env={"PYTHONIOENCODING": encoding}, encoding=encoding)
    complete(done, "-" * 80 if encoding != "cp1252" else "nbs/2.ipynb", "\\u6f22")


@POSIX
def test_no_folder_for_temporary_files(tmp_path):
    root = make_project(tmp_path, a1=["x = 1"])
    code = (
        f"import sys, tempfile; sys.path.insert(0, {str(TOOL.parent)!r})\n"
        "def refuse(*_, **__): raise OSError(28, 'No space left on device')\n"
        "tempfile.TemporaryDirectory = refuse\nimport run_notebook\nrun_notebook.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "No space left" in done.stderr
    assert "Traceback" not in done.stderr and "TMPDIR" in done.stderr


# --- nothing run is not green --------------------------------------------------------------------


@POSIX
def test_nothing_run_is_not_green(tmp_path):
    root = make_project(tmp_path)
    (root / "nbs").mkdir()
    done = run(root)
    assert done.returncode == 1 and "no notebook in nbs" in done.stderr
    write(root / "nbs", "_draft", "x = 1")
    done = run(root)
    assert done.returncode == 1 and "except nbs/_draft.ipynb; pass one by name" in done.stderr
    assert "1 passed" in run(root, "nbs/_draft.ipynb").stdout
    for cell in ("#skip\n1/0", "md:only text"):
        write(root / "nbs", "1", cell)
        done = run(root)
        assert done.returncode == 1 and "nothing ran" in done.stdout, done.stdout
        assert "left out: nbs/_draft.ipynb" in done.stdout


@POSIX
def test_only_numbered_notebooks_where_the_project_says_so(tmp_path):
    root = make_project(tmp_path, a01_fine=["#export\nx = 1"])
    (root / "settings.ini").write_text("[DEFAULT]\nlib_path = lib\nnumbered = true\n")
    write(root / "nbs", "scratch", "1 / 0")
    write(root / "nbs", "Untitled", "def half_typed(")
    done = run(root)
    assert "1 passed, 0 failed" in done.stdout and done.returncode == 0
    assert "left out: nbs/scratch.ipynb (its name has no number; pass it by name" in done.stdout
    exporter = [sys.executable, TOOL.with_name("notebook2script.py")]
    done = subprocess.run(exporter, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "converted nbs/01_fine.ipynb" in done.stdout
    write(root / "nbs", "scratch", "#export\ny = 1")
    done = subprocess.run(exporter, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and "scratch.ipynb:cell 1 (id0): is left out" in done.stderr


@POSIX
def test_a_notebook_of_another_language_alone(tmp_path):
    root = make_project(tmp_path)
    write(root / "nbs", "1", "print('hello')", kernelspec={"name": "ir", "display_name": "R"})
    done = run(root)
    assert done.returncode == 1 and "its kernel is ir; this runner runs Python" in done.stdout
    write(root / "nbs", "2", "x = 1")
    assert run(root).returncode == 0


@POSIX
def test_folders_are_searched_to_the_bottom(tmp_path):
    for name in ("1", "a/2", "a/b/3", ".ipynb_checkpoints/1-checkpoint", "a/.hidden/4", "_old/5"):
        write(tmp_path / Path(name).parent, Path(name).name, "x = 1")
    write(tmp_path / "env" / "lib", "6", "1/0")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    done = run(tmp_path, ".")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\S+ipynb)", done.stdout, re.M) == ["1.ipynb", "a/2.ipynb", "a/b/3.ipynb"]
    assert "2 passed" in run(tmp_path, "a").stdout
    assert "1 passed" in run(tmp_path, "a/*.ipynb").stdout  # a shell that leaves the star alone


# --- mistakes are sentences ----------------------------------------------------------------------


def test_wrong_values_of_options_are_sentences(tmp_path):
    root = make_project(tmp_path, a1=["x = 1"])
    for arguments, what in {
        ("--timeout", "abc"): "--timeout",
        ("--cell_timeout=-3",): "--cell_timeout is a number of seconds",
        ("--jobs", "x"): "--jobs",
        ("--jobs", "2.5"): "--jobs",
        ("--jobs=-1",): "--jobs",
        ("--engine", "steam"): "--engine is fork",
        ("--device", "tpu"): "cpu, cuda or auto",
    }.items():
        done = run(root, *arguments)
        assert done.returncode == 1 and what in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    (root / "settings.ini").write_text("[DEFAULT]\ntimeout = soon\n")
    assert "timeout in the project's settings is a number" in run(root).stderr
    for letter in ("-h", "--help"):
        done = run(root, letter)
        assert done.returncode == 0 and "--cell_timeout" in done.stdout + done.stderr


@POSIX
def test_what_is_not_a_notebook_is_named(tmp_path):
    root = make_project(tmp_path, a1=["x = 1"])
    (root / "script.py").write_text("# %%\nx = 1\n")
    done = run(root, "script.py", "1")
    assert done.returncode == 1 and "1 passed, 1 failed" in done.stdout
    assert "script.py is not a notebook (.ipynb)" in done.stdout and "jupytext" in done.stdout


@POSIX
def test_cells_without_metadata_are_saved(tmp_path):
    cells = [{"cell_type": "code", "source": "6 * 7"}, {"cell_type": "markdown", "source": "text"}]
    for metadata in ({"metadata": {}}, {}):
        text = json.dumps({"nbformat": 4, "nbformat_minor": 4, "cells": cells, **metadata})
        (tmp_path / "1.ipynb").write_text(text)
        done = run(tmp_path, "1.ipynb", "--save")
        assert done.returncode == 0, done.stdout + done.stderr
        node = nbformat.read(tmp_path / "1.ipynb", 4)
        nbformat.validate(node)
        assert node.cells[0].outputs[0].data["text/plain"] == "42"


# --- in a stranger's folder ----------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("settings", ["settings.ini", "pyproject.toml", None])
def test_it_serves_the_folder_it_is_called_in(tmp_path, settings):
    """The user's package wins, also over one that is called exp; the tool's own folder rests."""
    root, home = tmp_path / "theirs", tmp_path / "home"
    (root / "exp").mkdir(parents=True)
    (root / "exp" / "__init__.py").write_text("mine = 1\n")
    write(root / "nbs", "1", "import exp\nassert exp.mine == 1")
    ini, toml = "[DEFAULT]\nlib_path = exp\n", "[tool.ground-up]\nlib_path='exp'\n"
    texts = {"settings.ini": ini, "pyproject.toml": toml}
    if settings:
        (root / settings).write_text(texts[settings])
    own = [TOOL.parents[1] / "build" / "timings.json", TOOL.parents[1] / "exp" / "__init__.py"]
    before = [path.read_bytes() if path.exists() else None for path in own]
    env = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    done = run(root, env=env)
    assert "1 passed, 0 failed" in done.stdout, done.stdout + done.stderr
    assert before == [path.read_bytes() if path.exists() else None for path in own]
    kept = [*(root / "build" if settings else home / "cache").rglob("*.json")]
    assert len(kept) == 2 and all("nbs/1.ipynb" in path.read_text() for path in kept)
    assert (root / "build").exists() == bool(settings)
    if settings:  # from below as well
        done = run(root / "exp", env=env)
        assert "1 passed, 0 failed" in done.stdout, done.stdout + done.stderr


@POSIX
def test_a_package_on_the_path_wins(tmp_path):
    (tmp_path / "path" / "exp").mkdir(parents=True)
    (tmp_path / "path" / "exp" / "__init__.py").write_text("mine = 1\n")
    write(tmp_path / "work", "1", "import exp\nassert exp.mine == 1")
    done = run(tmp_path / "work", "1.ipynb", env={"PYTHONPATH": str(tmp_path / "path")})
    assert "1 passed" in done.stdout, done.stdout


@POSIX
@pytest.mark.parametrize("engine", ["fork", "kernel"])
def test_as_an_installed_command(tmp_path, engine):
    """As pip installs it: the tools are a package, also where Python ignores a script's folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "ground_up_tools").symlink_to(TOOL.parent)
    write(tmp_path / "work", "1", "import sys\nassert not any('tools' in p for p in sys.path)")
    code = "import sys; from ground_up_tools import run_notebook; sys.exit(run_notebook())"
    env = ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", code, ".", "--engine", engine]
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


@POSIX
def test_a_home_that_cannot_be_written(tmp_path):
    """Matplotlib then makes a temporary folder, which no notebook may remove from the others."""
    plot = ["import matplotlib.pyplot as plt\nplt.plot([1, 2]);"]
    root = make_project(tmp_path, a1=plot, a2=plot, a3=plot)
    env = {"HOME": "/dev/null", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}
    done = run(root, env=env)
    assert "3 passed, 0 failed" in done.stdout, done.stdout + done.stderr


@POSIX
def test_the_flags_of_nbdev_skip_cells(tmp_path):
    cells = ["#| cpp\n1/0", "#|fortran\n1/0", "#| slow\n1/0", "#| other\nx = 1", "# cpp\ny = 1"]
    write(tmp_path / "nbs", "1", *cells)
    ini = "[DEFAULT]\nnbs_path = nbs\ntst_flags = slow|cpp fortran\ndata = data\n"
    (tmp_path / "settings.ini").write_text(ini)
    done = run(tmp_path)
    assert done.returncode == 0 and "2 + 3 skipped" in done.stdout, done.stdout + done.stderr


@POSIX
def test_exported_cells_of_other_kinds(tmp_path):
    """A star import binds no name that could be listed; a cell may go to another module."""
    root = make_project(tmp_path, a00_core=[
        "#| default_exp core", "#| export\nfrom math import *\ndef half(x): return x / 2",
        "#| export utils\ndef third(x): return x / 3", "assert half(4) == 2 == sqrt(4)\nthird(3)",
    ])  # fmt: skip
    (root / "lib" / "core.py").write_text("from math import *\ndef half(x): return x / 2\n")
    (root / "lib" / "utils.py").write_text("def third(x): return x / 3\n")
    done = run(root, "--exported")
    assert done.returncode == 0, done.stdout + done.stderr


# --- the warm start changes nothing --------------------------------------------------------------


@POSIX
def test_unseeded_random_numbers_differ(tmp_path):
    draws = [
        "import os, random, torch, numpy as np",
        "numbers = [random.random(), torch.rand(1).item(), torch.initial_seed(),"
        "           np.random.rand(), np.random.default_rng().random()]",
        "open(os.environ['EXP_NOTEBOOK'] + '.txt', 'w').write(repr(numbers));",
    ]
    root = make_project(tmp_path, **{f"a{n}": draws for n in range(3)})
    assert "3 passed" in run(root).stdout
    drawn = [ast.literal_eval((root / "nbs" / f"{n}.txt").read_text()) for n in range(3)]
    assert all(len(set(numbers)) == 3 for numbers in zip(*drawn, strict=True)), drawn


def test_nbformat_without_the_grammars_of_addresses_checks_notebooks_all_the_same():
    code = f"""import sys
sys.path.insert(0, {str(TOOL.parent)!r})
from quick_nbformat import nbformat
assert not {{"lark", "rfc3987_syntax"}} & set(sys.modules)
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
nbformat.validate(notebook)
notebook.cells[0].source = 1
try:
    nbformat.validate(notebook)
except nbformat.ValidationError:
    print("refused")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


COMPARE = """
import sys
sys.path.insert(0, {tools!r})
for name in {base!r}:
    __import__(name)
if {warm}:
    from warm import Warm
    Warm().load(["torch", "torch._dynamo", "matplotlib.pyplot", "pandas"])
before = set(sys.modules)
{code}
new = set(sys.modules) - before
reached = {{n for n in sys.modules for p, _, c in [n.rpartition(".")]
           if vars(sys.modules.get(p, sys)).get(c) is sys.modules[n]}}
print(repr((sorted(new), sorted(reached))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [
    "import torch", "import numpy", "import PIL", "import matplotlib", "import matplotlib.pyplot",
    "import sympy", "from torch import nn",
])  # fmt: skip
def test_an_import_brings_what_it_brings_in_a_fresh_process(code):
    found = []
    for warm in (False, True):
        base = ("IPython.core.interactiveshell", "ipykernel.kernelapp", "multiprocessing.util")
        text = COMPARE.format(tools=str(TOOL.parent), base=base, warm=warm, code=code)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        found.append([set(part) for part in ast.literal_eval(done.stdout.split("\n")[-2])])
    (fresh, reached), (brought, reached_warm) = found
    assert fresh - {"__mp_main__", "warm"} == brought
    assert not reached ^ reached_warm


@POSIX
@pytest.mark.parametrize("engine", ["fork", "kernel"])
def test_a_module_of_the_notebook_s_own_wins(tmp_path, engine):
    """A file named as a package that the server has imported, and a folder added to the path."""
    own, added = tmp_path / "own" / "pandas.py", tmp_path / "vendored" / "PIL" / "__init__.py"
    write(tmp_path / "own", "1", "import pandas\nassert pandas.x == 3")
    write(tmp_path, "2", "import sys\nsys.path.insert(0, 'vendored')", "import PIL\nPIL.x")
    write(tmp_path, "3", "import pandas, matplotlib.pyplot, PIL.Image\npandas.NA")
    for file in (own, added):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 3\n")
    done = run(tmp_path, ".", "--engine", engine)
    assert "3 passed, 0 failed" in done.stdout, done.stdout + done.stderr


# --- the kernel engine ends with all that it started ----------------------------------------------

LEAVES = """
import os, subprocess, sys, time
sleep = ["sleep", "1000"]
pids = [subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
code = f"import subprocess as s; print(s.Popen({sleep}, stdout=-3, start_new_session=True).pid)"
pids.append(int(subprocess.check_output([sys.executable, "-c", code], text=True)))
open("pids.new", "w").write(" ".join(map(str, [os.getpid(), os.getppid(), *pids])))
os.rename("pids.new", "pids")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere orphans cannot be adopted")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT", "SIGTERM", "end"])
@pytest.mark.parametrize("engine", ["kernel", "fork"])
def test_no_process_survives_the_runner(tmp_path, engine, how):
    root = make_project(tmp_path, a1=[LEAVES, "x = 1" if how == "end" else "time.sleep(1000)"])
    command = [sys.executable, TOOL, "--engine", engine]
    process = subprocess.Popen(command, cwd=root, env=ENVIRONMENT, stdout=-1, text=True)
    until = time.monotonic() + 60
    while not (root / "nbs" / "pids").exists() and time.monotonic() < until:
        time.sleep(0.05)
    pids = [int(pid) for pid in (root / "nbs" / "pids").read_text().split()]
    if how != "end":
        process.send_signal(getattr(signal, how))
    out, _ = process.communicate(timeout=60)
    until = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(pids) == 5 and not any(map(alive, pids))
    if how in ("SIGINT", "SIGTERM"):
        assert f"stopped: the runner got {how}" in out and process.returncode == 1


@pytest.mark.parametrize("system, unseen", [("win32", "left running"), ("darwin", "detached"),
                                            ("linux", "")])  # fmt: skip
def test_what_is_not_seen_is_said(tmp_path, monkeypatch, system, unseen):
    write(tmp_path, "1", "#skip\n1/0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", system)
    results = runner.run_notebook("1.ipynb", engine="kernel")
    assert bool(results.notes) == bool(unseen) and unseen in str(results)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the rooms -----------------------------------------------------------------------------------

RUNNER = (
    "run_notebook plan engines fork_engine kernel_engine keeper kernel_keeper "
    "host watch warm outcomes processes reports report_files"
).split()


def imports(name):
    tree = ast.parse(TOOL.with_name(f"{name}.py").read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {module for module in found if module and TOOL.with_name(f"{module}.py").exists()}


def test_each_file_is_read_in_one_sitting():
    for name in RUNNER:
        assert len(TOOL.with_name(f"{name}.py").read_text().splitlines()) <= 400, name


def test_a_notebook_s_own_process_imports_records_only():
    assert imports("outcomes") == imports("warm") == imports("processes") == set()
    assert imports("watch") == {"outcomes"} and imports("host") == {"outcomes", "watch"}
    assert imports("keeper") == {"host", "outcomes", "processes", "warm"}
    assert imports("kernel_keeper") == {"processes"}


# --- long output ---------------------------------------------------------------------------------


PRINTED = st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=30))


@given(st.lists(PRINTED, max_size=30), st.data())
def test_the_start_and_the_end_of_long_output_are_kept(printed, data):
    limit, outcomes.TEXT_LIMIT = outcomes.TEXT_LIMIT, 40
    try:
        pieces = []
        for name, text in printed:
            cut = data.draw(st.integers(0, len(text)))
            pieces += [(name, text[:cut]), (name, text[cut:])]
        kept = []
        for parts in (printed, pieces):
            record = Record()
            record.begin(1)
            for name, text in parts:
                record.text(name, text)
            kept.append(record.end())
        assert kept[0] == kept[1]
        shown, whole = [o["text"] for o in kept[0]], "".join(text for _, text in printed)
        at = next((i for i, text in enumerate(shown) if "… cut here" in text), None)
        if len(whole) <= 40:
            assert at is None and "".join(shown) == whole
        else:
            assert f"{len(whole):,} characters" in shown[at]
            assert ("".join(shown[:at]), "".join(shown[at + 1 :])) == (whole[:20], whole[-20:])
    finally:
        outcomes.TEXT_LIMIT = limit
