"""What happens in notebooks, and the verdict that each deserves: the cases of test_conformance.py.

Most come from public reports on nbmake, nbval, papermill, nbclient, nbconvert, ipykernel, IPython,
joblib, matplotlib and PyTorch; the others are what people's notebooks do.
"""

# ruff: noqa: E501 - it is a table
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A notebook, its verdict, and what the report must say of it.

    A cell is its source, or (source, metadata); `md:` and `raw:` begin cells of these kinds. `at`
    is the number of the cell that fails, 0 if it is the notebook as a whole, None if either may.
    `kernel` is what differs in a Jupyter kernel, and `why` the reason.
    """

    cells: list
    verdict: str = "passed"
    says: str = ""
    at: int | None = None
    kernel: tuple[str, str] | None = None  # verdict, says
    why: str = ""
    slow: bool = False
    metadata: dict = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether it ends only when its time is up."""
        return "took longer" in self.says + " ".join(self.kernel or ())


def fails(at: int | None, says: str, *cells, **options) -> Case:
    return Case(list(cells), "failed", says, at, **options)


def passes(*cells, **options) -> Case:
    return Case(list(cells), **options)


def skipped(*cells, **options) -> Case:
    return Case(list(cells), "skipped", **options)


def tagged(source: str, *tags: str) -> tuple[str, dict]:
    return source, {"tags": list(tags)}


THREAD = "import threading, time\ndef work():\n    {}\nthread = threading.Thread(target=work)\n"
TASK = "import asyncio\nasync def work():\n    {}\ntask = asyncio.create_task(work())"

# --- what stays from cell to cell -----------------------------------------------------------------

STATE = {
    "seterr": fails(2, "FloatingPointError", "import numpy as np\nnp.seterr(divide='raise');",
                    "1 / np.array([1.0, 0.0])"),
    "decimal_precision": passes("import decimal\ndecimal.getcontext().prec = 50",
                                "assert len(str(decimal.Decimal(1) / 3)) == 52"),
    "print_options": passes("import numpy as np\nnp.set_printoptions(precision=2)",
                            "assert str(np.array([1.23456])) == '[1.23]'"),
    "context_variable": passes("from contextvars import ContextVar\nv = ContextVar('v')\n"
                               "token = v.set(3)", "assert v.get() == 3", "v.reset(token)"),
    "context_in_tasks": passes("from contextvars import ContextVar\nimport asyncio\n"
                               "v = ContextVar('v')\nv.set(3);",
                               "async def f(): return v.get()\n"
                               "assert await asyncio.create_task(f()) == 3"),
    "context_manager_by_hand": passes("import numpy as np\ne = np.errstate(divide='ignore')\n"
                                      "e.__enter__()", "np.array([1.]) / 0",
                                      "e.__exit__(None, None, None)"),
    "thread_local": passes("import threading\nlocal = threading.local()\nlocal.x = 1",
                           "assert local.x == 1"),
    "grad_mode": passes("import torch\ntorch.set_grad_enabled(False);",
                        "assert not torch.is_grad_enabled()"),
    "default_dtype": passes("import torch\ntorch.set_default_dtype(torch.float64)",
                            "assert torch.ones(1).dtype == torch.float64"),
    "seeded": passes("import random, torch\nrandom.seed(0); torch.manual_seed(0);",
                     "assert random.random() == 0.8444218515250481",
                     "assert abs(torch.rand(1).item() - 0.4962566) < 1e-6"),
    "warnings_filter": fails(2, "UserWarning: old", "import warnings\n"
                             "warnings.simplefilter('error')", "warnings.warn('old')"),
    "out_and_in": passes("6 * 7", "assert _ == 42 and Out[1] == 42 and _1 == 42\n"
                         "assert In[1] == '6 * 7' and _i1 == '6 * 7'"),
    "future_import": passes("from __future__ import annotations",
                            "def f(x: Nowhere): return x\nassert f(1) == 1"),
    "main_module": passes("assert __name__ == '__main__'\nimport sys\n"
                          "here = 1\nassert sys.modules['__main__'].here == 1"),
    "pickle": passes("import pickle\nclass A:\n    x = 3",
                     "assert pickle.loads(pickle.dumps(A())).x == 3"),
    "source_of_a_function": passes("def f():\n    return 1", "import inspect\n"
                                   "assert 'return 1' in inspect.getsource(f)"),
    "generator": passes("g = (i for i in range(3))\nnext(g)", "assert next(g) == 1"),
    "async_generator": passes("async def f():\n    for i in range(3): yield i\ng = f()",
                              "assert await anext(g) == 0",
                              "assert [x async for x in g] == [1, 2]"),
    "folder": passes("import os\nos.mkdir('made'); os.chdir('made')",
                     "assert os.path.basename(os.getcwd()) == 'made'\n"
                     "open('inmade.py', 'w').write('x = 3');", "import inmade\nassert inmade.x == 3",
                     "import shutil\nos.chdir('..'); shutil.rmtree('made')"),
    "folder_deleted": passes("import os, tempfile, shutil\nd = tempfile.mkdtemp(); os.chdir(d)\n"
                             "shutil.rmtree(d)", "x = 1"),
    "environment": passes("import os\nos.environ['MINE'] = '1'", "!test $MINE = 1"),
    "environment_cleared": passes("import os\nos.environ.clear()", "print(1)"),
    "argv": fails(None, "SystemExit: 2", "import argparse\np = argparse.ArgumentParser()\n"
                  "p.add_argument('--n', default=1);", "p.parse_args()"),
    "known_args": passes("import argparse\np = argparse.ArgumentParser()\n"
                         "p.add_argument('--n', default=1)\na, _ = p.parse_known_args()"),
    "unittest_main": fails(1, "SystemExit", "import unittest\nunittest.main()"),
    "no_file": fails(1, "NameError.*__file__", "print(__file__)"),
    "helper_beside": passes("import helper\nassert helper.x == 3"),
    "helper_named_as_the_tools": passes(
        "import watch, outcomes, host, keeper, engines, reports, plan\n"
        "assert all(m.x == 3 for m in (watch, outcomes, host, keeper, engines, reports, plan))"),
    "reset": passes("x = 1", "%reset -f", "assert 'x' not in globals()", "import gc\ngc.collect();"),
    "deep_recursion_limit": passes("import sys\nsys.setrecursionlimit(20_000)", "x = 1"),
}  # fmt: skip

# --- what a warm start must not hide -------------------------------------------------------------

WARM = {
    "missing_submodule": fails(1, "has no attribute 'Image'", "import PIL\nPIL.Image"),
    "its_neighbour": passes("import matplotlib.pyplot as plt\nimport torch\nimport PIL\nPIL.Image"),
    "missing_pyplot": fails(1, "has no attribute 'pyplot'", "import matplotlib\nmatplotlib.pyplot"),
    "missing_import": fails(1, "NameError", "torch.ones(1)"),
    "not_imported": passes("import sys\nassert not {'torch', 'matplotlib', 'pandas'} & {*sys.modules}"),
    "missing_stdlib": fails(1, "has no attribute 'dom'", "import xml\nxml.dom.minidom"),
    "loaded_by_jupyter": passes("import logging, importlib, concurrent, http\nlogging.handlers\n"
                                "importlib.util\nconcurrent.futures\nhttp.client"),
    "reload": passes("import importlib, torch, textwrap\nimportlib.reload(textwrap);",
                     "assert importlib.util.find_spec('torch').origin == torch.__file__"),
    "checks_for_torch": passes("import sys\nassert 'torch' not in sys.modules", "import torch",
                               "assert 'torch' in sys.modules and torch.optim.SGD"),
    "optimizer": passes("import torch\nm = torch.nn.Linear(2, 1)\n"
                        "o = torch.optim.Adam(m.parameters())\nm(torch.ones(1, 2)).sum().backward()\n"
                        "o.step()", "from torch.utils.data import DataLoader"),
    "pandas_display": passes("import pandas as pd\npd.DataFrame({'a': [1, 2]})",
                             "assert pd.Timestamp('2026-01-02').day == 2"),
    "plot": passes("import matplotlib.pyplot as plt\nplt.plot([1, 2]);", "plt.show()"),
    "copies_of_modules": passes("import pickle, copyreg, torch\n"
                                "t = pickle.loads(pickle.dumps(torch.ones(2)))\nassert t.sum() == 2"),
    "pkgutil": passes("import pkgutil, matplotlib\n"
                      "assert 'pyplot' in {m.name for m in pkgutil.iter_modules(matplotlib.__path__)}"),
    "import_by_name": passes("import importlib\nm = importlib.import_module('torch.nn.functional')\n"
                             "assert m.__name__ == 'torch.nn.functional'\n"
                             "import torch.nn.functional as F\nassert F is m"),
}  # fmt: skip

# --- processes and threads that are left ---------------------------------------------------------

LEFT = {
    "loky": passes("from joblib import Parallel, delayed\nimport math\n"
                   "assert Parallel(n_jobs=2)(delayed(math.sqrt)(k) for k in (1, 4)) == [1, 2]"),
    "joblib_threads": passes("from joblib import Parallel, delayed\nassert Parallel(n_jobs=2, "
                             "backend='threading')(delayed(abs)(k) for k in (1, -4)) == [1, 4]"),
    "joblib_multiprocessing": passes("from joblib import Parallel, delayed\nassert Parallel(n_jobs=2"
                                     ", backend='multiprocessing')(delayed(abs)(k) for k in (1, -4))"
                                     " == [1, 4]"),
    "scikit_learn_jobs": passes("from sklearn.model_selection import cross_val_score\n"
                                "from sklearn.linear_model import LogisticRegression\n"
                                "from sklearn.datasets import load_iris\n"
                                "X, y = load_iris(return_X_y=True)\n"
                                "model = LogisticRegression(max_iter=500)\n"
                                "assert cross_val_score(model, X, y, n_jobs=2).mean() > .9",
                                slow=True),
    "pool_left_open": passes("import multiprocessing as mp, math\npool = mp.Pool(2)\n"
                             "assert pool.map(math.sqrt, [1, 4]) == [1, 2]", "x = 1"),
    "pool_closed": passes("import multiprocessing as mp, math\nwith mp.Pool(2) as pool:\n"
                          "    assert pool.map(math.sqrt, [1, 4]) == [1, 2]"),
    "pool_raises": fails(1, "ZeroDivisionError", "import multiprocessing as mp\n"
                         "def f(x): return 1 / x\nwith mp.get_context('fork').Pool(1) as pool:\n"
                         "    pool.map(f, [0])"),
    "executor_left_open": passes("from concurrent.futures import ProcessPoolExecutor as P\n"
                                 "import math\npool = P(1)\nassert pool.submit(math.sqrt, 4).result()"
                                 " == 2", "x = 1"),
    "executor_worker_dies": fails(1, "BrokenProcessPool", "import os\n"
                                  "from concurrent.futures import ProcessPoolExecutor as P\n"
                                  "P(1).submit(os._exit, 1).result()"),
    "manager_left_open": passes("import multiprocessing as mp\nmanager = mp.Manager()\n"
                                "d = manager.dict(a=1)\nassert d['a'] == 1"),
    "shared_memory_left": passes("from multiprocessing.shared_memory import SharedMemory\n"
                                 "block = SharedMemory(create=True, size=10)\nblock.buf[0] = 1"),
    "queue_left": passes("import multiprocessing as mp\nq = mp.Queue()\nq.put(1)\nassert q.get() == 1"),
    "endless_process": passes("import multiprocessing as mp, time\n"
                              "p = mp.get_context('fork').Process(target=time.sleep, args=[1000])\n"
                              "p.start()"),
    "daemonic_process": passes("import multiprocessing as mp, time\np = mp.get_context('fork').Process("
                               "target=time.sleep, args=[1000], daemon=True)\np.start()"),
    "worker_fails_quietly": passes("import multiprocessing as mp\ndef f(): 1 / 0\n"
                                   "p = mp.get_context('fork').Process(target=f)\np.start()\np.join()\n"
                                   "assert p.exitcode == 1"),
    "loader_workers": passes("import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
                             "dl = DataLoader(TensorDataset(torch.arange(64.)), 8, num_workers=2)\n"
                             "assert sum(1 for _ in dl) == 8"),
    "persistent_workers": passes("import torch\n"
                                 "from torch.utils.data import DataLoader, TensorDataset\n"
                                 "dl = DataLoader(TensorDataset(torch.arange(64.)), 8, num_workers=2,"
                                 " persistent_workers=True)\nassert sum(1 for _ in dl) == 8", "x = 1"),
    "loader_iterator_left": passes("import torch\n"
                                   "from torch.utils.data import DataLoader, TensorDataset\n"
                                   "it = iter(DataLoader(TensorDataset(torch.arange(64.)), 8, "
                                   "num_workers=2))\nnext(it);"),
    "loader_worker_raises": fails(1, "Caught ZeroDivisionError in DataLoader worker",
                                  "from torch.utils.data import DataLoader\nclass D(list):\n"
                                  "    def __getitem__(self, i): return 1 / 0\n"
                                  "next(iter(DataLoader(D([1, 2]), num_workers=1)))"),
    "backward_hook_raises": fails(1, "ZeroDivisionError", "import torch\n"
                                  "x = torch.ones(1, requires_grad=True)\nx.register_hook(lambda g: 1/0)"
                                  "\nx.sum().backward()"),
    "subprocess_left": passes("import subprocess\nsubprocess.Popen(['sleep', '1000'])\n"
                              "subprocess.Popen(['sleep', '1000'], start_new_session=True);"),
    "daemon_process": passes("import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
                             "        os.execvp('sleep', ['sleep', '1000'])\n    os._exit(0)", "x = 1"),
    "bash_in_background": passes("%%bash --bg\nsleep 1000", "x = 1"),
    "command_in_background": fails(1, "Background processes not supported", "!sleep 1000 &"),
    "server_in_thread": passes("import http.server, threading, urllib.request\n"
                               "s = http.server.HTTPServer(('localhost', 0), "
                               "http.server.SimpleHTTPRequestHandler)\n"
                               "threading.Thread(target=s.serve_forever, daemon=True).start()",
                               "url = f'http://localhost:{s.server_port}/'\n"
                               "assert urllib.request.urlopen(url).status == 200"),
    "server_of_asyncio": passes("import asyncio\nasync def handle(r, w): w.close()\n"
                                "server = await asyncio.start_server(handle, 'localhost', 0)"),
    "daemon_thread": passes("import threading, time\n"
                            "threading.Thread(target=time.sleep, args=[1000], daemon=True).start()"),
    "thread_pool_left": passes("from concurrent.futures import ThreadPoolExecutor\n"
                               "pool = ThreadPoolExecutor(2)\nassert pool.submit(abs, -3).result() == 3"),
    "thread_ends_late": passes(THREAD.format("time.sleep(0.3)") + "thread.start()"),
    "endless_thread": fails(0, "the end of the notebook took longer than 5 s",
                            THREAD.format("while True: time.sleep(.1)") + "thread.start()", slow=True),
    "thread_raises": fails(None, "in the thread .*ZeroDivisionError",
                           THREAD.format("1 / 0") + "thread.start()", "time.sleep(0.2)"),
    "thread_raises_late": fails(0, "in the thread .*ZeroDivisionError",
                                THREAD.format("time.sleep(0.3); 1 / 0") + "thread.start()"),
    "timer_raises": fails(None, "in the thread .*ZeroDivisionError", "import threading\n"
                          "threading.Timer(0.05, lambda: 1 / 0).start()", "import time\ntime.sleep(.2)"),
    "thread_exits": passes(THREAD.format("raise SystemExit") + "thread.start()", "thread.join()"),
    "file_left_open": passes("import os\nf = open(os.devnull)"),
    "resource_warning": fails(None, "ResourceWarning", "import os, gc, warnings\n"
                              "warnings.simplefilter('error', ResourceWarning)\nf = open(os.devnull)",
                              "del f\ngc.collect();"),
    "temporary_folder_left": passes("import tempfile\nd = tempfile.TemporaryDirectory()"),
    "database_left": passes("import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('select 1');"),
}  # fmt: skip

# --- asyncio -------------------------------------------------------------------------------------

ASYNC = {
    "await_": passes("import asyncio\nawait asyncio.sleep(0)\nasync def f(): return 3",
                     "assert await f() == 3"),
    "task_across_cells": passes(TASK.format("await asyncio.sleep(0.05); return 3"),
                                "assert await task == 3"),
    "task_cancelled": passes(TASK.format("await asyncio.sleep(100)"), "task.cancel();"),
    "task_raises": fails(None, "ZeroDivisionError", TASK.format("1 / 0"), "x = 1"),
    "task_raises_late": fails(0, "awaited: ZeroDivisionError",
                              TASK.format("await asyncio.sleep(0.2); 1 / 0")),
    "endless_task": fails(0, "the task work is still running", TASK.format("await asyncio.sleep(100)")),
    "task_handled": passes(TASK.format("1 / 0"), "try:\n    await task\n"
                           "except ZeroDivisionError:\n    pass"),
    "never_awaited": fails(None, "f was never awaited", "async def f(): pass\nf();", "x = 1"),
    "never_awaited_silenced": fails(None, "f was never awaited", "import warnings\n"
                                    "warnings.filterwarnings('ignore')", "async def f(): pass\nf();",
                                    "import gc\ngc.collect();"),
    "asyncio_run": fails(1, "cannot be called from a running event loop", "import asyncio\n"
                         "async def f(): pass\nc = f()\ntry: asyncio.run(c)\nfinally: c.close()"),
    "run_until_complete": fails(1, "already running", "import asyncio\nasync def f(): pass\nc = f()\n"
                                "try: asyncio.get_event_loop().run_until_complete(c)\n"
                                "finally: c.close()"),
    "running_loop": passes("import asyncio\nloop = asyncio.get_running_loop()",
                           "assert asyncio.get_event_loop() is loop"),
    "callback_raises": fails(None, "ZeroDivisionError", "import asyncio\n"
                             "asyncio.get_event_loop().call_soon(lambda: 1 / 0);",
                             "await asyncio.sleep(0.05)"),
    "to_thread": passes("import asyncio\nassert await asyncio.to_thread(abs, -3) == 3"),
    "gather_raises": fails(1, "ZeroDivisionError", "import asyncio\nasync def f(): 1 / 0\n"
                           "await asyncio.gather(f(), asyncio.sleep(0))"),
    "task_group": fails(1, "- ZeroDivisionError", "import asyncio\nasync def f(): 1 / 0\n"
                        "async with asyncio.TaskGroup() as g: g.create_task(f())"),
    "wait_for": fails(1, "TimeoutError", "import asyncio\n"
                      "await asyncio.wait_for(asyncio.sleep(10), 0.01)"),
    "subprocess_of_asyncio": passes("import asyncio\np = await asyncio.create_subprocess_exec('true')\n"
                                    "assert await p.wait() == 0"),
    "task_exits": fails(None, "SystemExit|exit|ended|died", TASK.format("raise SystemExit(0)"),
                        "await asyncio.sleep(0.1)"),
    "task_of_a_file_named_host": fails(None, "ZeroDivisionError", "import asyncio, host\n"
                                       "t = asyncio.create_task(host.fails())", "x = 1"),
    "never_awaited_elsewhere": fails(None, "fails was never awaited", "import watch\nwatch.fails();"),
    "async_with_top_level": passes("from contextlib import asynccontextmanager\n@asynccontextmanager\n"
                                   "async def c(): yield 3", "async with c() as x: assert x == 3"),
}  # fmt: skip

# --- exceptions and ends -------------------------------------------------------------------------

ENDS = {
    "assertion": fails(2, "AssertionError: differs", "x = 1", "assert x == 2, 'differs'", "1/0"),
    "bare_assertion": fails(1, "AssertionError", "assert False"),
    "syntax": fails(1, "SyntaxError", "x = = 1"),
    "indentation": fails(1, "IndentationError", "if True:\nx = 1"),
    "null_byte": fails(1, "null byte|SyntaxError", "x = '\x00'"),
    "top_level_return": fails(1, "SyntaxError", "return 1"),
    "name": fails(1, "NameError", "nowhere"),
    "module_not_found": fails(1, "ModuleNotFoundError", "import nosuchmodule"),
    "in_a_helper": fails(1, "helper.py:3.*in share.*ZeroDivisionError", "import helper\nhelper.share(0)"),
    "cause": fails(1, "ValueError: b\ncaused by ZeroDivisionError", "try:\n    1 / 0\n"
                   "except ZeroDivisionError as e:\n    raise ValueError('b') from e"),
    "group": fails(1, "- ValueError: a", "raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])"),
    "note": fails(1, "ValueError: a\nlook there", "e = ValueError('a')\ne.add_note('look there')\nraise e"),
    "bad_str": fails(1, "E", "class E(Exception):\n    def __str__(self): 1 / 0\n"
                     "    __repr__ = __str__\nraise E"),
    "recursion": fails(1, "RecursionError", "def f(): f()\nf()"),
    "memory": fails(1, "MemoryError", "x = bytearray(10**15)"),
    "huge_message": fails(1, "ValueError: xxx.*50,000,\\d+ characters", "raise ValueError('x' * 50_000_000)"),
    "surrogates": fails(1, "ValueError", "raise ValueError('\\ud800')"),
    "keyboard_interrupt": fails(1, "KeyboardInterrupt", "raise KeyboardInterrupt"),
    "sys_exit": fails(2, "SystemExit: 0", "x = 1", "import sys\nsys.exit(0)", "assert False"),
    "sys_exit_1": fails(1, "SystemExit: 1", "import sys\nsys.exit(1)"),
    "exit": fails(1, r"exit\(\)", "exit()", "assert False"),
    "quit": fails(1, r"exit\(\)", "quit()", "assert False"),
    "os_exit": fails(2, r"exit code 0.*os\._exit", "import os", "os._exit(0)", "x = 1"),
    "abort": fails(1, "SIGABRT", "import os\nos.abort()"),
    "segfault": fails(2, "SIGSEGV", "import ctypes", "ctypes.string_at(0)"),
    "killed": fails(1, "SIGKILL.*memory", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    "terminated": fails(1, "SIGTERM", "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
                        "import time; time.sleep(5)"),
    "alarm": fails(1, "TimeoutError", "import signal, time\ndef stop(*_): raise TimeoutError\n"
                   "signal.signal(signal.SIGALRM, stop)\nsignal.setitimer(signal.ITIMER_REAL, .05)\n"
                   "time.sleep(2)"),
    "keeper_killed": fails(None, "died|SIGKILL", "import os, signal\nos.kill(os.getppid(), "
                           "signal.SIGKILL)\nimport time; time.sleep(60)"),
    "destructor": fails(2, "ZeroDivisionError", "class A:\n    def __del__(self): 1/0", "a = A()\ndel a"),
    "destructor_at_end": fails(0, "ZeroDivisionError", "class A:\n    def __del__(self): 1/0\na = A()"),
    "weak_callback": fails(1, "ZeroDivisionError", "import weakref\nclass A: pass\na = A()\n"
                           "r = weakref.ref(a, lambda _: 1/0)\ndel a"),
    "generator_closes": fails(1, "ZeroDivisionError", "def f():\n    try: yield\n    finally: 1/0\n"
                              "g = f(); next(g); del g"),
    "at_exit": fails(0, "in an exit handler: ZeroDivisionError", "import atexit\natexit.register("
                     "lambda: 1/0);", "x = 1"),
    "at_exit_fine": passes("import atexit\n@atexit.register\ndef f(): print('bye')"),
    "at_exit_unregistered": passes("import atexit\ndef f(): 1/0\natexit.register(f)\n"
                                   "atexit.unregister(f)"),
    "finalizer": fails(0, "ZeroDivisionError", "import weakref\nclass A: pass\na = A()\n"
                       "weakref.finalize(a, lambda: 1/0);"),
    "at_exit_hangs": fails(0, "the end of the notebook took longer than 5 s", "import atexit, time\n"
                           "atexit.register(time.sleep, 1000);", slow=True),
    "endless": fails(2, "the cell took longer than 5 s", "def spin():\n    while True: pass", "spin()",
                     slow=True),
    "sleeps_in_c": fails(1, "the cell took longer than 5 s", "import ctypes\nctypes.PyDLL(None).sleep(60)",
                         slow=True),
    "stopped": fails(1, "the cell took longer than 5 s", "import os, signal\n"
                     "os.kill(os.getpid(), signal.SIGSTOP)", slow=True),
    "spawn_of_a_notebook_function": fails(1, "the cell took longer than 5 s",
                                          "import multiprocessing as mp\ndef f(x): return x\n"
                                          "mp.get_context('spawn').Pool(1).map(f, [1])", slow=True),
    "input": fails(1, r"input\(\)", "input('name? ')"),
    "getpass": fails(1, r"input\(\)", "from getpass import getpass\ngetpass()"),
    "stdin": passes("import sys\nassert sys.stdin.read() == ''"),
    "breakpoint": fails(1, r"breakpoint\(\) waits for a person", "breakpoint()\nx = 1"),
    "set_trace": fails(1, r"input\(\)|BdbQuit|EOF", "import pdb\npdb.set_trace()\nx = 1"),
    "warning_only": passes("import warnings\nwarnings.warn('old')"),
    "own_event_raises": fails(None, "ZeroDivisionError", "def f(*_): 1/0\n"
                              "get_ipython().events.register('post_run_cell', f)", "x = 1"),
    "custom_handler": fails(2, "ValueError", "get_ipython().set_custom_exc((ValueError,), "
                            "lambda *_, **__: None)", "raise ValueError('a')"),
    "transformer_raises": fails(2, "AST transformer", "class T:\n    def visit(self, node): "
                                "raise ValueError('bad')\nget_ipython().ast_transformers.append(T())",
                                "x = 1"),
    "transformer_silenced": fails(2, "AST transformer", "import warnings\n"
                                  "warnings.filterwarnings('ignore')\nclass T:\n    def visit(self, "
                                  "node): raise ValueError('bad')\n"
                                  "get_ipython().ast_transformers.append(T())", "x = 1"),
    "unraisable_in_callback": fails(None, "ZeroDivisionError", "import ctypes\n"
                                    "f = ctypes.CFUNCTYPE(None)(lambda: 1 / 0)\nf()"),
}  # fmt: skip

# --- magics and commands -------------------------------------------------------------------------

MAGICS = {
    "no_such_magic": fails(1, "nosuchmagic", "%nosuchmagic", "x = 1"),
    "no_such_cell_magic": fails(1, "nosuchmagic", "%%nosuchmagic\nx"),
    "command": fails(1, "'false' returned non-zero exit status 1", "!false", "x = 1"),
    "command_fine": passes("!true", "x = !echo out\nassert x == ['out']"),
    "command_captured": fails(1, "exit status 3", "x = !echo out; exit 3"),
    "command_not_found": fails(1, "exit status 127", "!nosuchcommand"),
    "command_caught": passes("try:\n    !false\nexcept Exception as e:\n    print(type(e).__name__)"),
    "os_system": passes("import os\nassert os.system('false') != 0"),
    "subprocess_checked": fails(1, "CalledProcessError", "import subprocess\n"
                                "subprocess.run('false', check=True)"),
    "bash": fails(1, "exit status 4", "%%bash\nexit 4"),
    "bash_fine": passes("%%bash --out text\necho $((6 * 7))", "assert text == '42\\n'"),
    "bash_pipe": passes("%%bash\nfalse | true"),
    "script_may_fail": passes("%%script --no-raise-error bash\nfalse"),
    "script_not_installed": fails(1, "nosuchprogram", "%%script nosuchprogram\nx"),
    "python_cell": fails(1, "exit status 1", "%%python\n1/0"),
    "capture": passes("%%capture out\nprint('x')", "assert out.stdout == 'x\\n'"),
    "capture_hides_nothing": fails(1, "ZeroDivisionError", "%%capture\n1/0", "x = 1"),
    "timeit": fails(1, "ZeroDivisionError", "%timeit -n 1 -r 1 1/0", "x = 1"),
    "time": passes("%%time\nx = 1", "assert x == 1", "%time y = 2", "assert y == 2"),
    "time_fails": fails(1, "ZeroDivisionError", "%%time\n1/0"),
    "prun": passes("%prun -q sum(range(10))"),
    "folder_magic": fails(1, "a magic failed.*nowhere", "%cd nowhere", "x = 1"),
    "folder_magic_fine": passes("%cd -q ..\nimport os", "%cd -q -", "try:\n    1 / 0\n"
                                "except ZeroDivisionError:\n    %cd .."),
    "run_script": passes("%run script.py", "assert from_script == 3"),
    "run_fails": fails(1, "ZeroDivisionError", "%run failing.py", "x = 1"),
    "run_missing": fails(1, "nosuch.py", "%run nosuch.py", "x = 1"),
    "writefile": passes("%%writefile written.py\nx = 3", "import written\nassert written.x == 3\n"
                        "import os\nos.remove('written.py')"),
    "writefile_nowhere": fails(1, "FileNotFoundError", "%%writefile nowhere/x.py\nx = 3"),
    "load_ext_missing": fails(1, "ModuleNotFoundError", "%load_ext nosuchextension"),
    "config": fails(1, "Error|magic", "%config InlineBackend.figure_format ="),
    "config_fine": passes("%config InlineBackend.figure_format = 'svg'", "%matplotlib inline",
                          "import matplotlib.pyplot as plt\nplt.plot([1]);"),
    "matplotlib_unknown": fails(1, "nosuch", "%matplotlib nosuch"),
    "autoreload": passes("%load_ext autoreload\n%autoreload 2\nimport helper"),
    "autoreload_fails": fails(None, "autoreload could not reload .*reloaded",
                              "%load_ext autoreload\n%autoreload 2\n"
                              "open('reloaded.py', 'w').write('x = 1');\nimport reloaded",
                              "import os, time\nopen('reloaded.py', 'w').write('x = = 1');\n"
                              "t = time.time() + 5\nos.utime('reloaded.py', (t, t))", "x = 1"),
    "nested_cell": fails(1, "ZeroDivisionError", "get_ipython().run_cell('1/0')", "x = 1"),
    "help": passes("len?", "len??", "?len"),
    "line_magics": passes("%who", "%whos", "%xmode Plain", "%precision 3", "%lsmagic", "%pwd", "%env",
                          "%alias_magic t time", "%dhist", "%pdoc len"),
    "history": passes("x = 1", "%history"),
    "env_missing": fails(1, "NOSUCHVARIABLE", "%env NOSUCHVARIABLE"),
    "display_magics": passes("%%html\n<b>x</b>", "%%javascript\n1", "%%latex\n$x$", "%%markdown\n*x*",
                             "%%svg\n<svg></svg>"),
    "kernel_magics": passes("%autosave 60", "%connect_info"),
    "cell_magic_after_blank": passes("\n\n%%bash\ntrue"),
    "cell_magic_after_comment": fails(1, "bash", "# a comment\n%%bash\ntrue"),
    "pdb_on": fails(2, "ZeroDivisionError", "%pdb off", "1/0"),
    "automagic": passes("%automagic on", "pwd"),
    "sx": fails(1, "exit status 1", "x = %sx false"),
    "magic_in_function": fails(2, "exit status 1", "def f():\n    !false", "f()"),
}  # fmt: skip

# --- what is shown -------------------------------------------------------------------------------

SHOWS = {
    "bad_repr": fails(2, "ZeroDivisionError", "class A:\n    def __repr__(self): 1/0", "A()"),
    "bad_html": fails(2, "ZeroDivisionError", "class A:\n    def _repr_html_(self): 1/0", "A()"),
    "bad_display": fails(2, "ZeroDivisionError", "class A:\n    def _ipython_display_(self): 1/0", "A()"),
    "tail_of_long_output": fails(1, "printed last:.*line 99998\n.*line 99999",
                                 "for k in range(100_000): print('line', k)\n1/0"),
    "long_line": fails(1, "printed last:.*xxx", "print('x' * 1_000_000)\n1/0"),
    "bytes": passes("import os\nos.write(1, b'\\xff\\xfe\\n');"),
    "print_surrogate": passes("print('\\ud800'.encode('utf-8', 'replace'))"),
    "carriage_returns": passes("import time\nfor i in range(3): print(i, end='\\r', flush=True)"),
    "redirected": passes("import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f:\n"
                         "    print('x')\nassert f.getvalue() == 'x\\n'"),
    "no_stdout": passes("import sys\nsys.stdout = None", "print('x')", slow=True,
                        kernel=("failed", "took longer"), why="a kernel flushes it, and dies of that"),
    "other_stdout": passes("import sys, os\nsys.stdout = open(os.devnull, 'w')", "print('x')"),
    "stdout_closed": passes("import sys\nsys.stdout.close()", "x = 1"),
    "stderr_closed": passes("import sys\nsys.stderr.close()", "x = 1"),
    "print_after_close": fails(2, "closed file", "import sys\nsys.stdout.close()", "print('x')"),
    "not_a_terminal": passes("import sys\nassert not sys.stdout.isatty()\nsys.stdout.write('x\\n');"),
    "no_buffer": fails(1, "has no attribute 'buffer'", "import sys\nsys.stdout.buffer.write(b'x')"),
    "no_reconfigure": fails(1, "no attribute 'reconfigure'", "import sys\nsys.stdout.reconfigure()"),
    "print_bytes": fails(1, "must be str", "import sys\nsys.stdout.write(b'x')"),
    "descriptor": passes("import sys\nassert sys.stderr.fileno() >= 0"),
    "display_updates": passes("from IPython.display import display, update_display, clear_output\n"
                              "h = display('a', display_id='x')", "h.update('b')", "clear_output()"),
    "figure_nowhere": fails(1, "No such file", "import matplotlib.pyplot as plt\n"
                            "plt.savefig('/nowhere/x.png')"),
    "many_figures": passes("import matplotlib.pyplot as plt\nfor _ in range(25): plt.figure()\n"
                           "plt.close('all')"),
    "tqdm": passes("from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass"),
    "logging_error": passes("import logging\nlogging.error('only a message')"),
    "null_display": passes("None", "...", "x = 1;"),
    "non_ascii": passes("ü = 'naïve 漢字 🎉'\nprint(ü)"),
}  # fmt: skip

# --- what a notebook breaks around itself ---------------------------------------------------------

BREAKS = {
    "json": passes("import json\njson.dumps = lambda *a, **k: 'no'", "print('x')",
                   kernel=("failed", "the kernel's messages cannot be read"),
                   why="a kernel writes its messages with json.dumps"),
    "getpid": passes("import os\nos.getpid = lambda: 1", "print('x')",
                     kernel=("failed", "took longer"), slow=True,
                     why="a kernel that thinks it is a copy of itself sends no message"),
    "time": passes("import time\ntime.time = lambda: 0\ntime.monotonic = lambda: 0",
                   "print('x')"),
    "print": passes("import builtins\nbuiltins.print = None", "x = 1"),
    "open": passes("import builtins\nbuiltins.open = None", "x = 1"),
    "len": passes("len = 3\nstr = 4\nlist = 5", "x = 1"),
    "trace": passes("import sys\nsys.settrace(lambda *a: None)", "x = 1"),
    "displayhook": passes("import sys\nsys.displayhook = lambda x: None", "3"),
    "sigchld": passes("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN);", "x = 1"),
    "sigint": passes("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN);", "x = 1"),
    "low_descriptors": passes("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
                              "print('x')"),
    "excepthook": passes("import sys\nsys.excepthook = None", "x = 1"),
    "thread_count": passes("import threading\nassert threading.active_count() == 1",
                           kernel=("failed", "AssertionError"),
                           why="a kernel has threads for its messages"),
    "encoder": passes("import json\nclass E(json.JSONEncoder):\n    def default(self, o): return 1\n"
                      "json.JSONEncoder.default = E.default", "print('x')"),
    "kernel_attribute": passes("k = get_ipython().kernel\nassert k is not None and k.shell"),
    "shell_name": passes("assert type(get_ipython()).__name__ == 'ZMQInteractiveShell'\n"
                         "assert 'IPKernelApp' in get_ipython().config"),
    "fork_that_exits": passes("import os\npid = os.fork()\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0);"),
}  # fmt: skip

# --- directives, tags and formats -----------------------------------------------------------------

R = {
    "kernelspec": {"name": "ir", "display_name": "R", "language": "R"},
    "language_info": {"name": "R"},
}
MARKS = {
    "raises": passes(tagged("1/0", "raises-exception"), "x = 1"),
    "raises_not": passes(tagged("x = 1", "raises-exception"), "x = 2"),
    "raises_syntax": passes(tagged("x = = 1", "raises-exception"), "x = 1"),
    "raises_exit": passes(tagged("import sys\nsys.exit(1)", "raises-exception"), "x = 1"),
    "raises_command": passes(tagged("!false", "raises-exception"), "x = 1"),
    "raises_dies": fails(1, r"os\._exit", tagged("import os\nos._exit(0)", "raises-exception"), "x = 1"),
    "raises_thread": fails(None, "in the thread", tagged(THREAD.format("1 / 0") + "thread.start()\n"
                           "thread.join()", "raises-exception"), "x = 1"),
    "raises_then_fails": fails(2, "KeyError", tagged("1/0", "raises-exception"), "{}[1]"),
    "raises_state_stays": passes(tagged("x = 3\n1/0", "raises-exception"), "assert x == 3"),
    "nbval_raises": passes("# NBVAL_RAISES_EXCEPTION\n1/0", "x = 1"),
    "skip_tag": passes(tagged("assert False", "skip-execution"), "x = 1"),
    "nbval_skip": passes("# NBVAL_SKIP\nassert False", tagged("1/0", "nbval-skip"), "x = 1"),
    "eval_false": passes("#| eval: false\nassert False", "#|eval: false\nassert False", "x = 1"),
    "skip_directive": passes("#skip\nassert False", "#|skip\nassert False", "x = 1"),
    "slow_directive": passes("#slow\nassert False", "#| slow\nassert False", "x = 1"),
    "english_slow": fails(1, "AssertionError", "# slow\nassert False", "x = 1"),
    "english_skip": fails(1, "AssertionError", "# skip\nassert False"),
    "english_cuda": fails(1, "AssertionError", "# cuda\nassert False"),
    "english_sentence": fails(1, "AssertionError", "# skip the header\nassert False"),
    "everything_skipped": skipped("#skip\nassert False"),
    "nbdev_skip_exec": skipped("raw:---\nskip_exec: true\n---", "1/0", says="skip_exec"),
    "nbdev_skip_exec_list": skipped("md:# Title\n> Sentence\n\n- skip_exec: true", "1/0"),
    "tags_of_other_kinds": passes(("x = 1", {"tags": "skip-execution"}), ("x = 2", {"tags": None}),
                                  ("x = 3", {"tags": [3, None]})),
    "language_r": skipped("print('hello from R')", "x = 3", metadata=R, says="its language is R"),
    "language_julia": skipped("x = 3", metadata={"kernelspec": {"name": "julia-1.10",
                              "display_name": "Julia"}}, says="its kernel is julia-1.10"),
    "language_by_info": skipped("x = 3", metadata={"language_info": {"name": "javascript"}},
                                says="its language is javascript"),
    "kernel_of_an_environment": passes("x = 1", metadata={"kernelspec": {
        "name": "conda-env-mine-py", "display_name": "Mine", "language": "python"}}),
    "kernel_not_installed": passes("x = 1", metadata={"kernelspec": {"name": "nosuch",
                                   "display_name": "Nosuch"}}),
    "no_metadata": passes("x = 1", metadata={}),
    "no_code": passes("md:only text"),
    "empty_cells": passes("", "x = 1", " \n", "assert x == 1"),
    "comments_only": passes("# nothing here", "x = 1"),
    "long_cell": passes("\n".join(f"x{i} = {i}" for i in range(3000)), "assert x2999 == 2999"),
    "crlf": passes("x = 1\r\nif x:\r\n    y = 2", "assert y == 2"),
    "form_feed": passes("x = 1\n\x0cy = 2"),
}  # fmt: skip

GROUPS = {"state": STATE, "warm": WARM, "left": LEFT, "async": ASYNC, "ends": ENDS, "magics": MAGICS,
          "shows": SHOWS, "breaks": BREAKS, "marks": MARKS}  # fmt: skip
CASES = {f"{group}_{name}": case for group, cases in GROUPS.items() for name, case in cases.items()}
HELPERS = {
    "helper.py": "x = 3\ndef share(n):\n    return 1 / n\n",
    "script.py": "from_script = 3\n",
    "failing.py": "1 / 0\n",
    **{f"{name}.py": "x = 3\nasync def fails(): 1 / 0\n" for name in
       ("watch", "outcomes", "host", "keeper", "engines", "reports", "plan")},
}  # fmt: skip
