"""The exported LaTeX: each statement is there, all that is referred to is defined, it compiles."""

import re
import shutil
import subprocess
from collections import Counter

import pytest

from samkit.paper import claims
from tools import theorems

DEFINED = re.compile(r"\\label\{([\w-]+)\}")
REFERRED = re.compile(r"\\(?:eq)?ref\{([\w-]+)\}")


@pytest.fixture(scope="module")
def document():
    return theorems.document()


def test_every_proof_that_the_ledger_names_is_exported(document):
    proofs = {claim.proof for claim in claims.ledger().values() if claim.proof}
    assert proofs <= set(DEFINED.findall(document))


def test_every_reference_is_defined_once(document):
    defined = Counter(DEFINED.findall(document))
    assert not [label for label, times in defined.items() if times > 1]
    assert set(REFERRED.findall(document)) <= defined.keys()


def test_what_begins_ends(document):
    open_ = []
    for verb, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", document):
        if verb == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_


def test_theorems_of_this_edition_come_with_an_idea():
    without = [one.label for one in theorems.statements() if one.kind == "theorem" and not one.idea]
    new = ("diag-thm-loss", "diag-thm-converges", "diag-thm-derivative", "diag-thm-steps", "rec-")
    assert not [label for label in without if label.startswith(new)]


def test_markdown_becomes_latex():
    words = "With {prf:ref}`thm-x` and {eq}`eq-y`, *so* $a$ is 5 % **off**.\n\n$$\nc\n$$ (eq-z)"
    assert theorems.latex(words) == (
        "With Statement~\\ref{thm-x} and \\eqref{eq-y}, \\emph{so} $a$ is 5 \\% \\textbf{off}.\n\n"
        "\\begin{equation}\\label{eq-z}\nc\n\\end{equation}"
    )


@pytest.mark.skipif(
    not (shutil.which("pdflatex") or shutil.which("tectonic")), reason="no TeX is installed"
)
def test_it_compiles(document, tmp_path):
    (tmp_path / "theorems.tex").write_text(document, encoding="utf-8")
    if shutil.which("tectonic"):
        command = ["tectonic", "theorems.tex"]
    else:
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "theorems.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "theorems.pdf").stat().st_size > 100_000
