"""What would be published: each form of it installs in an empty environment, and works there."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from test_project import ROOT, run_example

pytestmark = pytest.mark.slow  # some minutes for each form: it installs PyTorch


def done(*command: object, **options) -> str:
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=3000, **options
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def packages() -> dict[str, Path]:
    """The packages in build/dist, which `make dist` leaves there."""
    folder = ROOT / "build" / "dist"
    for old in folder.glob("ground_up-*"):
        old.unlink()
    told = done(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    assert "Warning" not in told, told
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": source}


def test_both_hold_every_module_and_template(packages):
    expected = {f"exp/{path.name}" for path in (ROOT / "exp").glob("*.py")} | {"exp/py.typed"}
    tools = [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools" / "book").iterdir()]
    shared = {path.relative_to(ROOT / "tools").as_posix() for path in tools}
    with zipfile.ZipFile(packages["wheel"]) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert names == expected | {f"ground_up_tools/{name}" for name in shared}
    with tarfile.open(packages["sdist"]) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    assert expected | {f"tools/{name}" for name in shared} <= names


@pytest.mark.parametrize("form", ["wheel", "sdist"])
def test_it_works_in_an_empty_environment(packages, form, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    limits = ["-c", ROOT / "constraints.txt", "--only-binary=:all:", "--no-binary=ground-up"]
    done(python, "-m", "pip", "install", "-q", *limits, f"{packages[form]}[samples,tools]")
    work = tmp_path / "work"
    (work / "nbs").mkdir(parents=True)
    run_example(python, work, PYTHONPATH="")
    page = (ROOT / "nbs" / "00_exports.ipynb").read_bytes()
    (work / "nbs" / "00_exports.ipynb").write_bytes(page)
    (work / "pyproject.toml").write_text('[project]\nname = "bridges"\n')
    told = done(programs / "notebook2script", cwd=work)
    assert told == "converted nbs/00_exports.ipynb -> bridges/nb00.py\n"
    assert "1 passed, 0 failed" in done(programs / "run_notebook", cwd=work)
