"""A release in one file, fit for a DOI: `python -m tools.archive write` puts it into dist/.

It holds the built book, which opens from a folder without a server, the notebooks, the recorded
runs, wheel and source distribution of samkit, and what says whose it is. `... codemeta` writes
codemeta.json from pyproject.toml and CITATION.cff. The same commit gives the same archive.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import yaml

import samkit
from tools import gate, render, tree

CODEMETA = tree.ROOT / "codemeta.json"
PAGES = ("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "codemeta.json")
CONTENTS = """# samkit {version}

| Where | What |
|---|---|
| `book/index.html` | the book; to move its figures, run `python -m http.server` in `book/` |
| `notebooks/` | its chapters for Jupyter |
| `results/` | the recorded runs that it reads |
| `dist/` | the package: `pip install dist/samkit-{version}-py3-none-any.whl` |

`README.md` says what it is, `CITATION.cff` how to cite it, `LICENSE` what it may be used for.
"""


def codemeta() -> dict:
    """What CodeMeta 3.0 says of software, from what pyproject.toml and CITATION.cff say."""
    project = tomllib.loads((tree.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((tree.ROOT / "CITATION.cff").read_text("utf-8"))
    urls, paper = project["urls"], citation["preferred-citation"]
    return {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": project["name"],
        "version": samkit.__version__,
        "description": project["description"],
        "author": [{"@type": "Organization", "name": one["name"]} for one in project["authors"]],
        "license": f"https://spdx.org/licenses/{project['license']}",
        "keywords": project["keywords"],
        "programmingLanguage": "Python",
        "runtimePlatform": f"Python {project['requires-python']}",
        "softwareRequirements": project["dependencies"],
        "codeRepository": urls["Repository"],
        "issueTracker": urls["Issues"],
        "softwareHelp": urls["Documentation"],
        "releaseNotes": urls["Changelog"],
        "referencePublication": {
            "@type": "ScholarlyArticle",
            "name": paper["title"],
            "url": urls["Paper"],
            "author": [
                {
                    "@type": "Person",
                    "givenName": one["given-names"],
                    "familyName": one["family-names"],
                }
                for one in paper["authors"]
            ],
        },
    }


def write_codemeta() -> None:
    tree.write_whole(CODEMETA, json.dumps(codemeta(), indent=2) + "\n")


def distributions(folder: Path) -> list[Path]:
    """Wheel and source distribution of samkit, built into this folder."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": render.commit_time()}
    done = subprocess.run(
        command, cwd=tree.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise tree.BuildFailed(f"samkit could not be packaged:\n{done.stdout}{done.stderr}")
    return sorted(folder.iterdir())


def recorded() -> list[Path]:
    """The files of results/ but for unfinished runs."""
    files = render.files("results")
    return [path for path in files if path.suffix in (".json", ".jsonl")]


def pack(target: Path, built: list[Path]) -> None:
    """Write the archive, in which each file is at its place below samkit-VERSION/."""
    entries = {f"book/{path.relative_to(tree.HTML).as_posix()}": path for path in sorted(
        path for path in tree.HTML.rglob("*") if path.is_file()
    )}  # fmt: skip
    for path in (*sorted((tree.ROOT / "notebooks").glob("*.ipynb")), *recorded()):
        entries[path.relative_to(tree.ROOT).as_posix()] = path
    entries |= {f"dist/{path.name}": path for path in built}
    entries |= {name: tree.ROOT / name for name in PAGES}
    contents = {name: path.read_bytes() for name, path in entries.items()}
    contents["CONTENTS.md"] = CONTENTS.format(version=samkit.__version__).encode()
    date = time.gmtime(int(render.commit_time()))[:6]
    part = target.with_name(f"{target.name}.part")
    with ZipFile(part, "w", ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = ZipInfo(f"samkit-{samkit.__version__}/{name}", date)
            entry.external_attr = 0o644 << 16
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, content)
    part.replace(target)


def write() -> None:
    gate.check()
    target = tree.ROOT / "dist" / f"samkit-{samkit.__version__}.zip"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pack(target, distributions(Path(folder)))
    print(f"{target}: {target.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    tree.run({"write": write, "codemeta": write_codemeta}, __doc__)
