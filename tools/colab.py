"""Run the notebooks as Colab would, without Colab: `python -m tools.colab PYTHON [PACKAGES]`.

PYTHON is an interpreter of the version that Colab has, PACKAGES Colab's list of preinstalled
packages: a file, or an address. The packages of tests/colab/packages.txt are installed in the
versions of that list, once. On top of them each notebook gets an empty environment of its own, into
which its first cell installs samkit from a clone of this working tree, as it does in Colab from the
published repository. nbval then runs the notebook and compares its outputs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from urllib.request import urlopen

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tools.notebooks import notebook_path
from tools.tree import BUILD, ROOT, BuildFailed, chapters, end

PACKAGES = ROOT / "tests" / "colab" / "packages.txt"


def pins(text: str) -> dict[str, str]:
    """The lines of a list of packages by the package's name; other lines are left out."""
    found = {}
    for line in text.splitlines():
        try:
            found[canonicalize_name(Requirement(line).name)] = line
        except InvalidRequirement:
            continue
    return found


def wanted(source: str) -> list[str]:
    """The packages that the notebooks use and Colab holds, in the versions of the list ``source``.

    Raises BuildFailed if it cannot be read, or lacks some: then Colab no longer holds them, or it
    is no list of packages.
    """
    try:
        if re.match(r"\w+://", source):
            with urlopen(source) as answer:
                text = answer.read().decode()
        else:
            text = Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BuildFailed(f"{source} cannot be read ({error}): name a list of packages") from None
    names, versions = pins(PACKAGES.read_text(encoding="utf-8")), pins(text)
    if missing := sorted(names.keys() - versions.keys()):
        raise BuildFailed(
            f"{source} does not hold {', '.join(missing)}: if Colab does not either, take the "
            f"lines out of {PACKAGES.relative_to(ROOT)}"
        )
    return [versions[name] for name in names]


def environment(python: str, requirements: list[str]) -> Path:
    """The interpreter of an environment with these packages, under _build, made if need be."""
    path = shutil.which(python)
    if not path:
        raise BuildFailed(f"no {python} here: name one of Colab's version, COLAB_PYTHON=...")
    code = "import sys; print('colab', *sys.version_info[:2], sep='-')"
    said = subprocess.run([path, "-c", code], capture_output=True, text=True)
    folder = BUILD / said.stdout.strip()
    inside = folder / "bin" / "python"
    if said.returncode or not inside.exists():
        made = subprocess.run([path, "-m", "venv", folder], check=False)
        if made.returncode:  # such as a shim of pyenv for a version that is not chosen
            raise BuildFailed(f"{path} makes no environment: name another, COLAB_PYTHON=...")
    install = [inside, "-m", "pip", "install", "--quiet", *requirements]
    if subprocess.run(install).returncode:
        raise BuildFailed("Colab's packages could not be installed: see what pip says above")
    return inside


def on_top(python: Path, folder: Path) -> Path:
    """The interpreter of an empty environment that sees the packages of the one of ``python``."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    below = site_packages(python)
    (site_packages(folder / "bin" / "python") / "below.pth").write_text(f"{below}\n")
    return folder / "bin" / "python"


def site_packages(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return Path(said.stdout.strip())


def installed(python: Path) -> dict[str, str]:
    """name -> version of what is in this environment itself, not below it."""
    held = distributions(path=[str(site_packages(python))])
    return {canonicalize_name(held_one.metadata["Name"]): held_one.version for held_one in held}


def snapshot(tree: Path, folder: Path) -> str:
    """The address of a repository whose one commit is the working tree, uncommitted changes too."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if (tree / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree / name, folder / name)
    identity = ["-c", "user.name=samkit", "-c", "user.email=samkit@localhost"]
    commit = [*identity, "commit", "--quiet", "--message", "as it is"]
    for command in (["init", "--quiet"], ["add", "--all"], commit):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder.as_uri()


def execute(notebook: Path, python: Path, source: str, folder: Path) -> tuple[str, dict[str, str]]:
    """Run a copy of a notebook in ``folder``, in an environment of its own on top of ``python``'s.

    Returns what went wrong (nothing: "") and what its first cell installed, name -> version.
    """
    alone = on_top(python, folder / "environment")
    kernel = folder / "kernels" / "alone"
    kernel.mkdir(parents=True)
    start = [str(alone), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": start, "display_name": "alone", "language": "python"})
    )
    shutil.copy(notebook, folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    nbval = ["--nbval-lax", "--nbval-kernel-name=alone", "--nbval-cell-timeout=900"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *nbval, "-p", "no:cacheprovider", notebook.name],
        env={**environment, "JUPYTER_PATH": str(folder), "SAMKIT_SOURCE": source},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    added, below = installed(alone), installed(python)
    wrong = [done.stdout + done.stderr] if done.returncode else []
    if "samkit" not in added:
        wrong.append("its first cell did not install samkit")
    if replaced := sorted(added.keys() & below.keys()):
        wrong.append(f"its first cell replaced what Colab holds: {', '.join(replaced)}")
    return "\n".join(wrong), added


def main(python: str, packages: str = str(PACKAGES)) -> None:
    base = environment(python, wanted(packages))
    failed = []
    with tempfile.TemporaryDirectory() as made:
        tree = Path(made, "tree")
        tree.mkdir()
        source = snapshot(ROOT, tree)
        for page in chapters():
            folder = Path(made, page.stem)
            folder.mkdir()
            began = time.perf_counter()
            wrong, added = execute(notebook_path(page), base, source, folder)
            seconds = time.perf_counter() - began
            brought = ", ".join(f"{name} {version}" for name, version in sorted(added.items()))
            end = "FAILED" if wrong else "passed"
            print(f"{page.stem}: {end}, {seconds:.0f} s; installed: {brought}", flush=True)
            if wrong:
                print(wrong, flush=True)
                failed.append(page.stem)
    if failed:
        raise BuildFailed(f"not as in the book: {', '.join(failed)}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    end(lambda: main(*sys.argv[1:]))
