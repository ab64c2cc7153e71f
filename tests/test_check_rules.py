"""The rules of the game: each rule with a notebook made for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import check_rules as rules
from check_rules import check, check_rules
from game import FREE, METHODS, canonical
from notebooks import NotebookError, ToolError, find, read

TOOL = Path(rules.__file__)
TEST = "from exp.nb00 import test_near\n"


def save(folder, name, *sources):
    """Write a notebook of these cells; a text that starts with "## " is Markdown."""
    cells = []
    for number, source in enumerate(sources):
        kind = "markdown" if source.startswith("## ") else "code"
        made = {"cell_type": kind, "id": f"c{number}", "metadata": {}, "source": source}
        cells.append(made | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ipynb").write_text(json.dumps(book), encoding="utf-8")


@pytest.fixture
def play(tmp_path):
    """Play through notebooks, given as name=[cells] or as the cells of one: (ledger, problems)."""

    def played(*sources, **named):
        for path in find(tmp_path / "nbs"):
            path.unlink()
        for name, cells in ({"_02_topic": sources} | named).items():
            save(tmp_path / "nbs", name.removeprefix("_"), *cells)
        ledger, problems = check(read(path) for path in find(tmp_path / "nbs"))
        return [line.api for line in ledger], [p.what for p in problems]

    return played


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that earns two things, as the working directory."""
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nnbs_path = nbs\nlib_path = exp\n")
    save(tmp_path / "nbs", "01_matmul", "## Earn | it",
         "#earns @\nfrom exp.nb00 import test_near\nimport torch\nx = torch.ones(2, 2)\n"
         "test_near(x @ x, x + x)")  # fmt: skip
    earn = "#earns torch.nn.Linear\ntest_near(nn.Linear(1, 1).bias.shape[0], 1)"
    save(
        tmp_path / "nbs", "02_layers", "from torch import nn", "## A layer", earn, "nn.Linear(2, 3)"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Ways to write one use: (code, what it uses)
USES = {
    "import torch\ntorch.nn.Linear(1, 1)": "torch.nn.Linear",
    "import torch as t\nt.nn.functional.relu(x)": "torch.nn.functional.relu",
    "import torch.nn.functional as F\nF.relu(x)": "torch.nn.functional.relu",
    "import torch.nn.functional\ntorch.nn.functional.relu(x)": "torch.nn.functional.relu",
    "from torch.nn import functional as F\nF.relu(x)": "torch.nn.functional.relu",
    "from torch.nn.functional import relu as r\nr(x)": "torch.nn.functional.relu",
    "from torch import nn, optim, tensor\noptim.SGD(tensor(1))": "torch.optim.SGD",
    "from torch.utils.data import DataLoader as DL\nDL(x)": "torch.utils.data.DataLoader",
    "import torch\nnn = torch.nn\nnn.GRU(1, 1)": "torch.nn.GRU",
    "import torch\nnn, F = torch.nn, torch.nn.functional\nF.gelu(x)": "torch.nn.functional.gelu",
    "import torch\nmake = layers = torch.nn\nlayers.GRU(1)": "torch.nn.GRU",
    "def f(x):\n    import torch.nn as nn\n    return nn.ReLU()(x)": "torch.nn.ReLU",
    "def f(x):\n    return F.elu(x)\nimport torch.nn.functional as F": "torch.nn.functional.elu",
    "from torch import nn\nclass Net(nn.Module):\n    pass": "torch.nn.Module",
    "from torch import nn\nclass A:\n    nn = 3\n    def f(self): nn.GRU()": "torch.nn.GRU",
    "from torch import nn\ndef f(layer: nn.GRU):\n    pass": "torch.nn.GRU",
    "from torch import nn\nf = lambda x: nn.GRU(x)": "torch.nn.GRU",
    "from torch import nn\n[nn.GRU(i) for i in range(3)]": "torch.nn.GRU",
    "try:\n    import torch\nexcept ImportError:\n    torch = None\ntorch.outer(x)": "torch.outer",
    "import torch\nlayers = [\n    torch\n    .nn.GRU]": "torch.nn.GRU",
    "import torch\ngetattr(torch, 'matmul')": "torch",
    "import torch\ntorch.special.logsumexp(x)": "torch.special.logsumexp",
    "import torch\ntorch.linalg.norm(x)": "torch.linalg.norm",
    "x @ y": "@",
    "def f():\n    x @= y": "@",
    "sum(row @ w for row in x)": "@",
    "import operator\noperator.matmul(x, y)": "operator.matmul",
    "import torch\ntorch.bmm(x, y)": "torch.bmm",
    "x.matmul(y)": "torch.Tensor.matmul",
    "f(x).t().mm(y)": "torch.Tensor.mm",
    "x.softmax(1)": "torch.Tensor.softmax",
    "torch_like.relu_()": "torch.Tensor.relu_",
    "x.addmm_(y, z)": "torch.Tensor.addmm_",
    "class A:\n    def f(self): return self.mm\nx.mm(y)": "torch.Tensor.mm",
    "class V:\n    def requires_grad_(v): ...\nx.requires_grad_()": "torch.Tensor.requires_grad_",
    "loss.backward()": "torch.Tensor.backward",
    "w.requires_grad_()": "torch.Tensor.requires_grad_",
    "w.requires_grad = True": "torch.Tensor.requires_grad_",
    "import torch\ntorch.randn(3, requires_grad=True)": "torch.Tensor.requires_grad_",
    "from torch import randn\nrandn(3, requires_grad=True)": "torch.Tensor.requires_grad_",
    "x.new_zeros(3, requires_grad=True)": "torch.Tensor.requires_grad_",
    "import torch\nwith torch.no_grad():\n    pass": "torch.no_grad",
    "%time x @ y": "@",
    "%%time\nx @ y": "@",
    "y = %timeit -n 10 -r3 -o x @ y\n!ls": "@",
    "from torch import nn\na, *b = 1, 2, nn.GRU()": "torch.nn.GRU",
    "class V:\n    def __init__(self): self.requires_grad = 1\nx.requires_grad = True":
        "torch.Tensor.requires_grad_",
    "import numpy as np\nnp.zeros(3)": "numpy.zeros",
    "from sklearn.datasets import load_digits\nload_digits()": "sklearn.datasets.load_digits",
}  # fmt: skip


@pytest.mark.parametrize("code", USES)
def test_a_use_before_it_is_earned_is_found_under_every_name(play, code):
    ledger, problems = play(code)
    assert len(problems) == 1 and not ledger
    assert USES[code] in problems[0].replace(",", " ").replace(";", " ").split()


FREELY = [
    "import torch\nfrom torch import tensor\nx = torch.randn(3, generator=torch.Generator())\n"
    "tensor([1.0])[None].reshape(1, 1).exp().sum(); x.add_(1).clamp_min_(0); torch.manual_seed(42)",
    "import torch\ntorch.__version__, torch.float32.itemsize, torch.finfo(torch.float16).max",
    "import torch\nif torch.cuda.is_available(): torch.cuda.synchronize(); torch.get_num_threads()",
    "import torch\ntorch.Tensor.view(x, 3); torch.nn.functional.tanh(x); torch.random.fork_rng()",
    "from torch import nn",  # an import is no use: it may stand on top of the notebook that earns
    "from torch.nn import Linear",
    "'x @ y'  # loss.backward()",
    '"""F.relu, nn.Linear"""',
    "@decorated\ndef f(): ...",
    "import math, json\nfrom collections import Counter\nCounter(math.exp(1))",
    "import matplotlib.pyplot as plt\nplt.plot(x)",
    "from torch import nn\ndef f(nn):\n    return nn.GRU",  # the argument, not the module
    "from torch import nn\nf = lambda nn: nn.GRU",
    "from torch import nn\n[nn.GRU for nn in x]",
    "from torch import nn\ndef f():\n    for nn in x:\n        nn.GRU",
    "from torch import nn\ndef f():\n    def g(): return nn.GRU\n    nn = x\n    return g",
    "import torch as t\nfor t in range(3):\n    t.bit_length()",
    "from torch import nn\nnn = 3\nnn.real",
    "import torch\nfrom . import torch\ntorch.GRU",
    "a, (b, *c), d = x * y + z, f(x), 3; a -= b; a.b, c = d; e = d, 1",
    "from torch.nn.functional import relu\ndef relu(x): ...\nrelu(x)",
    "def f():\n    from torch import nn\nnn.GRU()",  # not bound here: the runner's to find
    "class Tape:\n    def backward(self): ...\nTape().backward()",
    "class Tape:\n    def __init__(self): self.norm = 3\nTape().norm",
    "class Tape:\n    def run(self): self.backward()",
    "class Value:\n    def __init__(self, x, requires_grad): self.requires_grad = requires_grad\n"
    "Value(3, requires_grad=True)",
    "x.requires_grad, x.grad, x.detach()",
    "%matplotlib inline\n!ls\nlen?\nx = 1",
    "%%bash\nx @ y",
    "#skip\nx = = 3",
    "",
]


@pytest.mark.parametrize("code", FREELY)
def test_what_is_free_is_free(play, code):
    assert play(code) == ([], [])


def test_what_is_earned_may_be_used_from_that_cell_on(play):
    earn = "#earns torch.nn.Linear\nfrom torch import nn\ntest_near(nn.Linear(1, 1).weight, 0)"
    after = "import torch\ntorch.nn.Linear.forward"
    assert play(earn, after, _03_next=[after]) == (["torch.nn.Linear"], [])
    assert play(after, earn)[1] == ["uses torch.nn.Linear.forward before it is earned"]
    assert play(earn, "nn.Linear(1, nn.ReLU())")[1] == ["uses torch.nn.ReLU before it is earned"]
    assert play(_01_first=[after], _02_second=[earn])[1]  # order is that of the numbers
    assert not play(_02_second=[earn], _10_tenth=[after])[1]


def test_one_thing_under_several_names_is_earned_once(play):
    earn = "#earns @\ntest_near(x @ y, z)"
    later = (
        "import torch, operator\ntorch.matmul(x, y); x.mv(y); torch.bmm(x, y); operator.matmul(x)"
    )
    assert play(earn, later) == (["@"], [])
    assert play("#earns torch.matmul\ntest_near(x @ y, z)", "x @ y") == (["torch.matmul"], [])
    both = ["@", "torch.mm"]
    assert play("#earns @, torch.mm, @\ntest_near(x @ y, z)", later) == (both, [])
    assert "earns torch.mm, which @ in" in play(earn, "#earns torch.mm\ntest_near(x @ y, z)")[1][0]
    relu = "import torch\nfrom torch.nn import functional as F\nF.relu(x); torch.relu(x); x.relu_()"
    assert play(f"#earns torch.nn.functional.relu\n{relu}; test_near(x, y)", relu)[1] == []
    assert play(f"#earns torch.relu\n{relu}; test_near(x, y)", "torch.nn.ReLU()")[1] == [
        "uses torch.nn.ReLU before it is earned"
    ]


def test_autograd_is_earned_as_one(play):
    uses = """import torch
x = torch.randn(3, requires_grad=True)
x.sum().backward()
with torch.no_grad(): x.grad
torch.autograd.grad(x, x); x.requires_grad_(False)"""
    assert len(play(uses)[1]) == 4
    assert play(f"#earns torch.autograd\n{uses}\ntest_near(x, y)", uses) == (["torch.autograd"], [])


def test_a_method_may_be_compared_with_the_one_of_the_same_name(play):
    own = "class Tape:\n    def backward(self): ..."
    earn = (
        "#earns torch.Tensor.backward\nours.backward(); y.backward()\ntest_near(ours.grad, x.grad)"
    )
    assert play(own, earn) == (["torch.Tensor.backward"], [])


def test_inside_an_earns_cell_the_gradients_of_the_library_are_an_oracle(play):
    oracle = """import torch
x.sum().backward(); torch.testing.assert_close(x, y); torch.autograd.gradcheck(f, x)"""
    assert play(f"#earns @\n{oracle}\ntest_near(x @ y, z)") == (["@"], [])
    assert len(play("#earns @\ntest_near(x @ y, z)", oracle)[1]) == 3


@pytest.mark.parametrize(
    ("code", "problem"),
    {
        "#earns @\nx @ y": "earns without a test",
        "#earns @\nprint(x @ y, testing(x))": "earns without a test",
        "#earns @\ntest_raises(lambda: x @ y)": "earns without a test",
        "#earns @\ndef f(): test_near(x @ y, z)": "earns without a test",
        "#earns @\nf = lambda: test_near(x @ y, z)": "earns without a test",
        "#earns @\n'test_near(x @ y, z)', x @ y": "earns without a test",
        "#earns @\ntest_near(x, z)": "earns @, but its code does not use it",
        "#earns @\ntest_near('x @ y', z)  # x @ y": "earns @, but its code does not use it",
        "#earns F.relu\nimport torch.nn.functional as F\ntest_near(F.relu(x), x)":
            "earns F.relu, but its code does not use it",
        "#earns torch.exp\nimport torch\ntest_near(torch.exp(x), y)": "earns torch.exp, which is",
        "#earns torch.Tensor.grad\ntest_near(x.grad, y)": "earns torch.Tensor.grad, which is free",
        "#earns torch.nn\nfrom torch import nn\ntest_near(nn.GRU(), x)": "earns all of torch.nn at",
        "#earns torch\ntest_near(1, x)": "earns all of torch at once",
        "#earns torch.nn.functional\ntest_near(1, x)": "earns all of torch.nn.functional at once",
        "#earns torch.optim\ntest_near(1, x)": "earns all of torch.optim at once",
        "#earns relu\ntest_near(1, x)": "earns `relu`, which is not the full path",
        "#earns torch.mm torch.mv\ntest_near(1, x)": "earns `torch.mm torch.mv`, which is not",
        "#earns\ntest_near(1, x)": "`#earns` earns nothing",
        "##earns @\ntest_near(1, x)": "`##earns @` earns nothing",
        "#earn @\ntest_near(1, x)": "`#earn @` earns nothing",
        "from torch import *": "imports * from torch",
        "from . import *": "imports * from .",
        "import scipy as sp\nsp.ones(3)": "uses scipy.ones, of a module that the rules do not know",
        "#export\nfrom exp.nb01 import *": "imports * from exp.nb01",
        "x = = 3": "is not Python",
        "import pandas as pd\npd.DataFrame()": "uses pandas.DataFrame; pandas (tables, introduced",
        "import torch\ntorch.compile(f)": "uses torch.compile; torch.compile (a compiler)",
        "import torch\nf(torch.nn)": "hands on torch.nn as a whole",
    }.items(),
)  # fmt: skip
def test_what_the_rules_refuse(play, code, problem):
    problems = play(code)[1]
    assert problems and problems[0].startswith(problem), problems


def test_earning_twice_names_the_first_cell(play):
    earn = "#earns @\ntest_near(x @ y, z)"
    ledger, problems = play(earn, _03_next=[earn])
    assert ledger == ["@"]
    assert "02_topic.ipynb:cell 1 (c0)" in problems[0]


@pytest.mark.parametrize(
    "earn",
    [
        "#export\n#earns @\nfor i in x:\n    test_near(x @ y, z)",
        "\n# earns @ , \nwith x:\n    checks.test_eq(x @ y, z)",
        "#| earns @\nif x:\n    test_eq(f(lambda: x @ y), z)",
        "#earns @\n%time test_near(x @ y, z)",
        "#earns @\n[test_near(x @ y, z) for y in ys]",
        "#earns @\ntest_near(x @ y, z)\ndef again(): test_near(y @ x, z)",
        "#earns @\ndef same(f): test_near(f(x, y), x @ y)\nsame(mine)",
        "#earns @\ndef same(f): test_near(f(x, y), x @ y)\ndef all():\n    same(mine)\nall()",
        "#earns @\n# earned by comparison, earnestly\ntest_near(x @ y, z)",
    ],
)
def test_ways_to_write_an_earns_cell(play, earn):
    assert play(earn, "x @ y") == (["@"], [])


def test_the_box_of_data_is_exempt_and_nothing_else(play):
    code = "import numpy as np\nfrom sklearn import datasets\nnp.zeros(3) @ datasets.load_digits()"
    assert play(_00a_datasets=[code], _00b_samples=[code])[1] == []
    assert len(play(_00_exports=[code])[1]) == 3
    assert len(play(_00g_more=[code])[1]) == 3
    assert play(_00a_datasets=["from numpy import *"])[1] == ["imports * from numpy"]


def test_tools_come_with_their_notebook(play):
    code = (
        "import pandas as pd\nfrom sklearn.tree import DecisionTreeRegressor as T\nT(pd.Series())"
    )
    assert len(play(_04_learner=[code])[1]) == 2
    assert len(play(_06_hooks=[code])[1]) == 1
    assert not play(_09_collab=[code])[1]
    assert not play(_01_first=[], appendix=[code])[1]  # without a number: after all others
    assert play(_01_first=["#earns @\ntest_near(x @ y, z)"], appendix=["x @ y"])[1] == []


def test_names_from_an_earlier_notebook_are_followed(play):
    first = "from torch import nn\nclass Tape:\n    def backward(self): ...\ndef mine(): ..."
    own = "from exp.nb01 import Tape, mine\nmine(Tape().backward(), requires_grad=True)"
    assert play(own, _01_first=[first])[1] == []
    front = own.replace("exp.nb01", "exp")  # through the front door, if it is exported
    assert play(front, _01_first=[f"#export\n{first}"])[1] == []
    assert play("from exp import nb01\nx.backward()", _01_first=[first])[1] == []
    assert play("x.backward()", _01_first=[first])[1]  # its class is not imported here
    borrowed = "from exp.nb01 import nn\nnn.GRU()"
    assert play(borrowed, _01_first=[first])[1] == ["uses torch.nn.GRU before it is earned"]
    assert (
        play("import exp.nb01\nfrom exp import nb01\nnb01.f(exp.nb01.g)", _01_first=[first])[1]
        == []
    )


def test_one_problem_per_cell_and_thing_with_its_place(project):
    twice = "#export\nimport torch.nn as nn\n\nnn.GRU()\nnn.GRU()"
    save(project / "nbs", "01_matmul", "## Top", twice, "x @ y\nx @ y", "nn.GRU()")
    (project / "nbs" / "02_layers.ipynb").unlink()
    with pytest.raises(NotebookError) as error:
        check_rules()
    remedy = "build it, and compare the two in a cell that starts with `#earns"
    assert str(error.value).splitlines() == [
        f"nbs/01_matmul.ipynb:cell 1 (c1):4: uses torch.nn.GRU before it is earned; {remedy} "
        "torch.nn.GRU`",
        f"nbs/01_matmul.ipynb:cell 2 (c2):1: uses @ before it is earned; {remedy} @`",
        f"nbs/01_matmul.ipynb:cell 3 (c3):1: uses torch.nn.GRU before it is earned; {remedy} "
        "torch.nn.GRU`",
    ]


@pytest.mark.parametrize(
    ("code", "api"),
    {
        "x.mm(y)": "@",
        "x.backward()": "torch.autograd",
        "import torch\ntorch.nn.GRU()": "torch.nn.GRU",
        "x.relu_()": "torch.Tensor.relu_",
    }.items(),
)
def test_the_remedy_is_a_directive_that_works(play, tmp_path, code, api):
    play(code)
    problems = check([read(tmp_path / "nbs" / "02_topic.ipynb")])[1]
    assert problems[0].remedy.endswith(f"`#earns {api}`")
    assert play(f"#earns {api}\n{code}; test_near(x, y)", code) == ([api], [])


def test_the_ledger_is_a_table(project, capsys):
    check_rules()
    assert capsys.readouterr().out.splitlines() == [
        "API              earned in  at",
        "@                01_matmul  Earn | it",
        "torch.nn.Linear  02_layers  A layer",
    ]
    check_rules(markdown=True)
    assert capsys.readouterr().out.splitlines() == [
        "| earned in | at | API |",
        "| --- | --- | --- |",
        r"| [01_matmul](nbs/01_matmul.ipynb) | Earn \| it | `@` |",
        "| [02_layers](nbs/02_layers.ipynb) | A layer | `torch.nn.Linear` |",
    ]
    assert sorted(p.name for p in project.iterdir()) == ["nbs", "settings.ini"]


def test_the_readme_is_kept_in_step(project, capsys):
    earn = "#earns torch.nn.GRU\nimport torch\ntest_eq(torch.nn.GRU(1), x)"
    """It is written on demand, compared otherwise, and left alone while a rule is broken."""
    readme = project / "README.md"
    readme.write_bytes("# Häuser\r\nno marks, no ledger\n".encode())
    check_rules()
    with pytest.raises(ToolError, match="needs one line <!-- ledger -->"):
        check_rules(readme="README.md")
    readme.write_bytes("# Häuser\r\n<!-- ledger -->\nold\n<!-- /ledger -->\nend\n".encode())
    with pytest.raises(NotebookError, match="README.md: its ledger is out of date; run"):
        check_rules()
    check_rules(nbs="nbs")  # it is the ledger of the project's own folder
    assert b"old" in readme.read_bytes()
    capsys.readouterr()
    check_rules(markdown=True, readme="README.md")
    table = capsys.readouterr().out
    assert readme.read_text("utf-8") == f"# Häuser\n<!-- ledger -->\n{table}<!-- /ledger -->\nend\n"
    assert readme.read_bytes().startswith("# Häuser\r\n".encode())
    check_rules()
    save(project / "nbs", "02_layers", "x = 1")
    check_rules(readme=True)  # `--readme` without a name
    assert "02_layers" not in readme.read_text("utf-8")
    save(project / "nbs", "02_layers", earn)
    with pytest.raises(NotebookError, match="out of date"):
        check_rules()
    save(project / "nbs", "02_layers", "#earns torch.nn.Linear")
    before = readme.read_bytes()
    with pytest.raises(NotebookError, match="without a test"):
        check_rules(readme="README.md")
    assert readme.read_bytes() == before
    with pytest.raises(ToolError, match="missing.md cannot be read"):
        save(project / "nbs", "02_layers", "x = 1")
        check_rules(readme="missing.md")


def test_what_cannot_be_read_is_said_at_once(project):
    for name in ("03_a", "04_b"):
        (project / "nbs" / f"{name}.ipynb").write_text("{")
    with pytest.raises(NotebookError) as error:
        check_rules()
    assert [str(p.path.name) for p in error.value.problems] == ["03_a.ipynb", "04_b.ipynb"]
    with pytest.raises(ToolError, match="there is no notebook in typo"):
        check_rules(nbs="typo")


def test_the_command(project):
    def run(*arguments):
        command = [sys.executable, TOOL, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=project)

    done = run()
    assert done.returncode == 0 and "02_layers" in done.stdout
    save(project / "nbs", "01_matmul", "import torch\nx @ y\ntorch.einsum('i', x)")
    done = run()
    assert done.returncode == 1 and not done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert run("--reame", "README.md").returncode == 1


def test_the_tables_name_what_torch_has():
    torch = pytest.importorskip("torch")
    for name in FREE:
        thing = torch
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)
    assert [name for name in METHODS if not hasattr(torch.Tensor, name)] == []
    assert not FREE & {canonical(f"torch.Tensor.{name}") for name in METHODS}


def test_the_tool_imports_nothing_heavy():
    code = "import sys, check_rules; print(*sys.modules)"
    command, folder = [sys.executable, "-c", code], TOOL.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert not {"torch", "numpy", "IPython", "nbformat", "matplotlib"} & set(done.stdout.split())
