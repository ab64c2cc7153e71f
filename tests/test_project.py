"""The project as a whole: what the README shows is true, and what is imported gets installed."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import contents
import parts
from clean_notebook import clean
from notebooks import find, read

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRA = [
    Requirement(line)
    for lines in PROJECT["optional-dependencies"].values()
    for line in lines
    if not line.startswith(PROJECT["name"])
]


def section(mark: str) -> str:
    """What stands in the README between `<!-- mark -->` and `<!-- /mark -->`."""
    return re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", README, re.S)[1].strip()


def test_the_table_of_notebooks_is_current():
    notebooks = {path.stem: read(path) for path in find(ROOT / "nbs")}
    current = contents.overview(notebooks, ROOT, ROOT / "nbs")
    assert section("notebooks") == current, "run `make results`"


def test_the_example_prints_what_it_says(tmp_path):
    run_example(sys.executable, tmp_path, PYTHONPATH=str(ROOT))


def run_example(python, folder: Path, **env: str) -> None:
    """Run the README's example with this Python, and compare what it prints."""
    example = section("example")
    code = re.search(r"```python\n(.*?)```", example, re.S)[1]
    says = re.search(r"```text\n(.*?)```", example, re.S)[1]
    lines = [line for line in code.splitlines() if line.strip()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert len(imports) == 1 and len(lines) <= 14
    (folder / "example.py").write_text(code, "utf-8")
    done = subprocess.run(
        [python, "-c", "import runpy; runpy.run_path('example.py')"],
        cwd=folder, capture_output=True, text=True, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "EXP_DATA": "sample",
                          "EXP_PROGRESS": "lines"} | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, percent = re.compile(r"\d+\.\d+|\d+(?=%)"), re.compile(r"\d+(?=%)")
    assert number.sub("N", done.stdout) == number.sub("N", says)  # the machine's arithmetic differs
    assert abs(int(percent.search(done.stdout)[0]) - int(percent.search(says)[0])) <= 2


def test_the_links_of_the_pages_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text("utf-8")
        targets = re.findall(r"\]\(([^)#]+)", text)
        for target in [t for t in targets if not t.startswith("http")]:
            assert (ROOT / target).exists(), f"{page}: {target}"


def test_each_notebook_leads_to_the_next():
    notebooks = {path.stem: page for path, page in PAGES.items()}
    assert contents.links(notebooks, PARTS) == {}, "run `make results`"


def test_the_picture_is_small_and_made_by_a_notebook():
    pictures = re.findall(r"!\[[^\]]+\]\((nbs/images/(\w+)-(\w+)\.(?:svg|png))\)", README)
    assert pictures
    for path, name, cell_id in pictures:
        assert (ROOT / path).stat().st_size < 150_000
        drawn, ending = contents.figure(read(ROOT / "nbs" / f"{name}.ipynb"), cell_id)
        assert drawn == (ROOT / path).read_bytes() and path.endswith(ending)


PARTS = parts.read_parts(ROOT / "nbs")


def test_each_notebook_stands_in_one_part():
    assert parts.misplaced(PARTS, [path.stem for path in find(ROOT / "nbs")]) == []


@pytest.mark.parametrize(
    "page", [page for part in PARTS if not part.workshop for page in part.pages]
)
def test_no_page_of_the_path_has_long_stretches_of_code(page):
    assert parts.stretches(read(ROOT / "nbs" / f"{page}.ipynb")) == []


@pytest.mark.parametrize("path", find(ROOT / "nbs"), ids=lambda path: path.stem)
def test_each_check_of_an_exercise_speaks_and_has_a_cell_for_the_answer(path):
    page = read(path)
    last = max(i for i, c in enumerate(page.cells) if re.search("^## Exercises", c.source, re.M))
    cells = [c for c in page.cells[last:] if c.kind == "code"]
    solutions = [c for c in cells if "### BEGIN SOLUTION" in c.source]
    assert solutions and all(c.metadata["jupyter"]["source_hidden"] for c in solutions)
    answers = [c.source for c in cells if "exercise" in c.directives]
    checks = [node for c in cells if c not in solutions for node in c.tree.body
              if isinstance(node, ast.FunctionDef)
              and re.match(r"check_|exercise_\d", node.name)]  # fmt: skip
    assert checks
    for check in checks:
        assert any(f"# {check.name}(" in source for source in answers), f"{check.name}: no cell"
        mute = [ast.unparse(node) for node in ast.walk(check)
                if isinstance(node, ast.Assert) and node.msg is None]  # fmt: skip
        assert not mute, f"{check.name} says nothing where this fails: {mute}"


def test_the_commands_that_the_pages_name_exist():
    goals = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for page in ("README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/test.yml"):
        text = (ROOT / page).read_text("utf-8")
        named = re.findall(r"(?:^|`|run: )make ([a-z][a-z -]*[a-z])", text, re.M)
        assert named, page
        for goal in " ".join(named).split():
            assert goal in goals, f"{page}: make {goal}"


def test_every_requirement_is_pinned_to_a_version_that_it_accepts():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    for requirement in NEEDED + EXTRA:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    assert versions["torch"] == "2.13.0", "no local part, so that every index has it"


def imported(trees) -> set[str]:
    """The distributions from which some parsed code imports."""
    distributions = packages_distributions()
    own = {"exp"} | {
        path.stem
        for part in ("tools", "tests", "benchmarks")
        for path in (ROOT / part).rglob("*.py")
    }
    found = set()
    for node in (node for tree in trees if tree for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in (name.split(".")[0] for name in names):
            if name not in own and name not in sys.stdlib_module_names:
                found |= {canonicalize_name(found) for found in distributions.get(name, [name])}
    return found - {"triton"}  # comes with torch where there is CUDA


def parsed(folder: str) -> list[ast.Module]:
    return [ast.parse(path.read_text("utf-8")) for path in (ROOT / folder).rglob("*.py")]


@cache
def imported_by(part: str) -> set[str]:
    """The distributions from which a folder of the project imports, or the notebooks' cells."""
    cells = (cell.tree for page in PAGES.values() for cell in page.cells if cell.number)
    return imported(cells if part == "nbs" else parsed(part))


def names(requirements) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def is_for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_what_is_imported_gets_installed():
    """What a module imports at once is needed; what waits in a function may be an extra."""
    at_once = [ast.Module([node for node in tree.body if isinstance(node, ast.stmt)
                           and not isinstance(node, ast.FunctionDef | ast.ClassDef)
                           and not is_for_type_checkers(node)], [])
               for tree in parsed("exp")]  # fmt: skip
    assert imported(at_once) <= names(NEEDED), "declare it in pyproject.toml, dependencies"
    others = set().union(*map(imported_by, ("exp", "nbs", "tools", "tests")))
    others -= {"benchmarks"}  # a folder of this project
    assert others <= names(NEEDED + EXTRA), "declare it in pyproject.toml, as an extra"


def test_what_gets_installed_with_the_package_is_used():
    indirectly = {"tqdm"}  # the progress bar of pooch
    assert names(NEEDED) - indirectly <= imported_by("exp") | imported_by("nbs")


def committed(path: Path) -> str:
    """A file as it was committed: a reader's runs may have changed the one at hand."""
    name = path.relative_to(ROOT).as_posix()
    done = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True)
    return done.stdout.decode("utf-8") if done.returncode == 0 else path.read_text("utf-8")


def test_notebooks_are_committed_without_counts_times_and_versions():
    dirty = [path.name for path in PAGES if clean(text := committed(path)) != text]
    assert dirty == [], "run `make`, which sets up the filter, and add them again"
    bare = [path.name for path, page in PAGES.items() if "kernelspec" not in page.raw["metadata"]]
    assert bare == [], "Jupyter would ask for the kernel"


SPEAKING = {"print", "record_result", "show_images", "plt.show", "plt.subplots", "plt.figure"}
LATER = ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.If | ast.Try  # or perhaps never


def called(node):
    """The functions that a cell calls as it runs: not in branches or functions that it makes."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, LATER):
            if isinstance(child, ast.Call):
                yield ast.unparse(child.func)
            yield from called(child)


def test_what_a_cell_prints_or_draws_is_stored_below_it():
    missing = [
        f"{path.stem} {cell.id}"
        for path, page in PAGES.items()
        for cell in page.cells
        if cell.kind == "code" and cell.tree and not page.raw["cells"][cell.index]["outputs"]
        if not {"slow", "cuda", "exercise", "hide"} & cell.directives.keys()
        if SPEAKING & {*called(cell.tree)} and "plt.close" not in cell.source
    ]
    assert missing == [], "save them: tools/run_notebook.py nbs/PAGE.ipynb --save"


def test_a_notebook_that_was_only_run_is_no_change_for_git(tmp_path):
    before = committed(ROOT / "nbs" / "00_exports.ipynb")
    notebook = json.loads(before)
    for count, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = count
        cell["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
    after = clean(json.dumps(notebook, indent=2))
    assert after == before
    program = [sys.executable, "-S", str(ROOT / "tools" / "clean_notebook.py")]
    for text in (json.dumps(notebook), "no notebook", "[1]", ""):
        done = subprocess.run(program, input=text.encode(), capture_output=True)
        assert done.returncode == 0
        assert done.stdout.decode() == (after if text.startswith("{") else text)


def test_make_refuses_an_old_python(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "lint", "PYTHON=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_does_without_a_home_that_can_be_written(tmp_path):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / "more").write_text("show:\n\t@echo $$HOME\n")
    command = ["make", "-f", "Makefile", "-f", "more", "show"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    for home, used in ((tmp_path, tmp_path), ("/proc/no/home", tmp_path / "build" / "home")):
        done = subprocess.run(command, cwd=tmp_path, env=outside | {"HOME": str(home)},
                              capture_output=True, text=True)  # fmt: skip
        assert Path(done.stdout.strip()) == used and used.is_dir(), done.stderr


# --- recorded results: made by a page, drawn from their files, and not typed ---------------------

RECORDED = sorted((ROOT / "nbs" / "recorded").glob("*.json"))
PAGES = {path: read(path) for path in find(ROOT / "nbs")}
# figures of others, and of tries whose runs were not kept, that equal a recorded one by chance
TYPED = set(
    "0.001 0.290 0.116 0.158 0.108 0.152 0.115 0.101 0.093 0.876 0.894 0.925 0.951 0.103".split()
)


def calls(page, function):
    """The names that a page gives to a function: texts, or patterns where they are put together."""
    for cell in page.cells:
        for node in ast.walk(cell.tree) if cell.kind == "code" and cell.tree else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function:
                parts = getattr(node.args[0], "values", [node.args[0]])
                yield "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+"
                              for p in parts)  # fmt: skip


@cache
def users(function):
    """(pattern, path) for each call of a function on a page: of recorded results."""
    others = {path: page for path, page in PAGES.items() if path.stem != "00i_results"}  # its home
    return [(name, path) for path, page in others.items() for name in calls(page, function)]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_a_recorded_result_is_made_and_drawn_by_a_page_and_not_typed(file):
    kept = json.loads(file.read_text("utf-8"))
    assert {"date", "machine", "mode", "command", "figures"} <= kept.keys()
    # lists of pictures, drawn once and kept; and tries that came before the page, as it says
    chosen = file.stem in ("oxford_pets_splits", "translator_tries")
    for function in ("record_experiment", "recorded_experiment")[chosen:]:
        pages = {path for name, path in users(function) if re.fullmatch(name, file.stem)}
        assert pages, f"no page calls {function} for {file.name}"
    values = [value for value in flat(kept["figures"]) if isinstance(value, float)]
    for path in pages:
        prose = "\n".join(c.source for c in PAGES[path].cells if c.kind == "markdown")
        typed = set(re.findall(r"(?<![\w.])\d+\.\d{3,}(?![\w.]*\d)", prose)) - TYPED
        digits = {number: len(number.split(".")[1]) for number in typed}
        assert not [n for n, k in digits.items() if any(f"{v:.{k}f}" == n for v in values)]


def flat(nest):
    """Every value in nested dicts and lists."""
    if isinstance(nest, dict | list):
        for item in nest.values() if isinstance(nest, dict) else nest:
            yield from flat(item)
    else:
        yield nest


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
