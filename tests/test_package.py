"""What `import samkit` costs, what a wheel and an sdist hold, what the docstrings show."""

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import samkit

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("IPython", "anywidget", "joblib", "matplotlib", "numba", "scipy.optimize", "scipy.stats",
         "sklearn", "torch")  # fmt: skip


def loaded(module: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules a fresh process has after it imports that one."""
    code = f"import sys, {module}; print(*[m for m in {names!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return result.stdout.split()


@pytest.mark.parametrize(
    "module",
    ["samkit.paper.claims", "samkit.data", "samkit.diagonal", "samkit.errors", "samkit.theory"],
)
def test_importing_does_not_import_torch_or_matplotlib(module):
    assert loaded(module, ("torch", "matplotlib")) == []


def test_importing_samkit_imports_nothing_heavy():
    assert loaded("samkit", ("numpy", "scipy", *HEAVY)) == []


@pytest.mark.slow
def test_importing_the_optimizer_imports_nothing_heavy_beside_torch():
    assert loaded("samkit.optim", HEAVY) == ["torch"]


def test_every_public_name_is_there():
    for name in samkit.__all__:
        assert getattr(samkit, name) is not None
    assert set(samkit.__all__) <= set(dir(samkit))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = samkit.nothing


def test_the_table_of_contents_names_everything():
    for name in samkit.__all__:
        assert (
            f"``{name}``" in samkit.__doc__
            or f"``samkit.{name}``" in samkit.__doc__
            or (name == "__version__")
        )


@pytest.mark.parametrize(
    "name",
    ["SAM", "msam_grad", "sharpness", "diagonal.train", "diagonal.hyperbolic_entropy",
     "diagonal.least_entropy", "data.label_noise"],
)  # fmt: skip
def test_what_a_reader_calls_first_shows_an_example(name):
    thing = samkit
    for part in name.split("."):
        thing = getattr(thing, part)
    assert any(test.examples for test in doctest.DocTestFinder(recurse=False).find(thing))


def test_every_module_is_on_the_pages_of_the_package():
    pages = [page.read_text() for page in (ROOT / "book").glob("api*.md")]
    described = set(re.findall(r":: samkit\.([\w.]+)", "".join(pages)))
    for name in samkit.__all__:
        thing = getattr(samkit, name)
        module = getattr(thing, "__name__", "")
        if module.startswith("samkit."):
            inside = module.removeprefix("samkit.")
            assert any(d == inside or d.startswith(f"{inside}.") for d in described) or (
                name == "msam" or name == "optim"  # msam_grad and SAM are what they offer
            ), name
        elif name != "__version__":
            assert name in described or name in dir(samkit.errors), name
    for entry in described:  # and what the pages name is there
        *path, last = entry.split(".")
        parent = importlib.import_module(".".join(["samkit", *path]))
        assert hasattr(parent, last) or importlib.import_module(f"samkit.{entry}")


BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def without(package: str, code: str, *arguments: str) -> subprocess.CompletedProcess:
    """That code in a process where the package is not installed."""
    code = BLOCKED.format(package=package) + code
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_extras_that_errors_name_hold_their_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for package, extra in samkit.errors.EXTRAS.items():
        requirements = project["optional-dependencies"][extra]
        assert any(re.match(rf"{package}\b", r) for r in requirements), (package, extra)


@pytest.mark.parametrize(
    "package, extra, names",
    [
        ("torch", "torch", "SAM msam_grad sharpness optim measure nets training"),
        ("matplotlib", "figures", "paper.figures"),
        ("cattrs", "experiments", "paper.records"),
    ],
)
def test_a_missing_package_is_named_with_its_cure(package, extra, names):
    tried = "".join(f"""
try: samkit.{name}
except ImportError as error: print({name!r}, error)
""" for name in names.split())  # fmt: skip
    result = without(package, f"import samkit\n{tried}")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    cure = f"this needs {package}, which is not installed: pip install 'samkit[{extra}]'"
    assert lines == [f"{name} {cure}" for name in names.split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "package, arguments",
    [
        ("torch", ["list"]),
        ("cattrs", ["list"]),
        ("joblib", ["run", "fig01_perturbations", "--seeds", "99"]),
    ],
)
def test_the_command_names_the_cure_too(package, arguments):
    code = "import runpy; runpy.run_module('samkit', run_name='__main__', alter_sys=True)"
    result = without(package, code, *arguments)
    assert result.returncode == 2
    assert "pip install 'samkit[" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_numpy_half_is_tested_without_torch():
    """All are collected and some run, where torch cannot be imported."""
    code = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    folders = ["tests/diagonal", "tests/theory", "tests/data/test_noise.py"]
    run = without("torch", code, "-q", "-p", "no:cacheprovider", "-k", "test_noise", *folders)
    assert run.returncode == 0, run.stdout
    assert re.search(r"^\d+ passed, \d+ deselected", run.stdout, re.MULTILINE)


TYPED = """
import torch
import samkit
from samkit import SAM, msam_grad, sharpness

reveal_type(SAM)
reveal_type(msam_grad)
reveal_type(sharpness)
reveal_type(samkit.measure.top_eigenvalue)
SAM(torch.optim.SGD([torch.ones(1)]), 0.1, nonsense=4)
SAM(torch.optim.SGD([torch.ones(1)]), 0.1)
SAM([torch.ones(1)], torch.optim.SGD, lr=0.1, rho=0.1)
sharpness(rho="wide")
"""


@pytest.mark.slow
def test_type_checkers_see_the_signatures(tmp_path):
    (tmp_path / "use.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", tmp_path / "use.py"]  # with the cache of `make lint`
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = result.stdout.splitlines()
    revealed = [line.partition('is "')[2] for line in lines if "Revealed type" in line]
    assert len(revealed) == 4, result.stdout
    for text, part in zip(revealed, ("rho: ", "loss_fn: ", "rho: ", "loss_fn: "), strict=True):
        assert part in text and text != 'Any"', text
    assert any('No overload variant of "SAM"' in line for line in lines), result.stdout
    assert any('"rho"' in line and "str" in line for line in lines), result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The names of the files in a wheel and in an sdist built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "CITATION.cff",
                 "LICENSE"):  # fmt: skip
        shutil.copy(ROOT / name, folder)
    for name in ("samkit", "tests", "results"):
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("dist/*.whl")
    (sdist,) = folder.glob("dist/*.tar.gz")
    return wheel, sdist


@pytest.mark.slow
def test_wheel_and_sdist_hold_samkit_whole_and_nothing_else(distributions):
    wheel, sdist = distributions
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "samkit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        "samkit/py.typed",
        "samkit/paper/ledger.toml",
        "samkit/paper/published/diagonal.json",
    } <= ours
    assert "samkit/paper/interactive/esm/kit.mjs" in ours
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in in_wheel if ".dist-info/" not in name} == ours
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    assert ours <= in_sdist and {"CHANGELOG.md", "README.md"} <= in_sdist
    assert not [name for name in in_sdist if name.startswith(("tests", "results"))]


@pytest.mark.slow
def test_an_installed_wheel_works_by_itself(distributions, tmp_path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, distributions[0]], check=True, capture_output=True)
    code = (
        "import samkit; from samkit import claims, interactive, published\n"
        "print(samkit.__file__)\n"
        "assert claims.ledger() and published.diagonal() and interactive.module('effect')\n"
        "assert '<svg' in interactive.html('effect')\n"
        "try: samkit.paper.records.load('bench_msam')\n"
        "except FileNotFoundError as error: assert 'SAMKIT_RESULTS' in str(error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SAMKIT")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_relative_to(target)


@pytest.mark.parametrize("name", samkit._MOVED)
def test_a_name_that_moved_is_still_there_and_says_so(name):
    with pytest.warns(DeprecationWarning, match=re.escape(samkit._MOVED[name])):
        assert getattr(samkit, name) is importlib.import_module(samkit._MOVED[name])
