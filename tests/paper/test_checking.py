import pytest

from samkit.paper import checking, claims
from samkit.paper.command_line import main

PROGRAM = """
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

```{code-cell} ipython3
from samkit.paper import claims
values = {"x": 1.0, "y": 3.0}
```

Words.

```{code-cell} ipython3
half = values["x"] / 2
claims.check("x", half, "half of it")
```

```{code-cell} ipython3
for name in ("y", "w"):
    claims.check(f"loop.{name}", values["y"])
```

```{code-cell} ipython3
runs = []
claims.check("waits", max(runs)) if runs else "not yet"
```

```{code-cell} ipython3
broken = 1 / 0
claims.check("z", broken)
claims.check("late", 0.25)
```
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one chapter and a ledger of its rows."""
    rows = {
        id_: claims.Claim(
            id=id_, statement=f"It is {id_}.", place="p", kind="statement",
            evidence="measured", chapter="01-one", scale="ci", check="how", sense="at most",
            tolerance=1.0, reason="because",
        )
        for id_ in ("x", "loop.y", "loop.w", "waits", "z", "late")
    }  # fmt: skip
    unchecked = dict(sense="", tolerance=None, reason="", id="later")
    rows["later"] = claims.Claim(**{**vars(rows["x"]), **unchecked})
    (tmp_path / "01-one.md").write_text(PROGRAM.lstrip(), encoding="utf-8")
    monkeypatch.setattr(checking, "BOOK", tmp_path)
    monkeypatch.setattr(claims, "ledger", lambda: rows)
    return tmp_path


def test_a_row_alone(book, capsys):
    assert main(["check", "x"]) == 0
    said = capsys.readouterr().out
    assert "x: It is x." in said
    assert "required  at most 1: because" in said
    assert "measured  0.5 half of it" in said and "PASS" in said


def test_an_unexpected_verdict_and_a_row_that_raises_are_code_1(book, capsys):
    assert main(["check", "loop.y"]) == 1
    assert "FAIL, unexpected" in capsys.readouterr().out
    assert main(["check", "z", "x"]) == 1
    said = capsys.readouterr().out
    assert "no measurement: NameError" not in said and "PASS" in said
    assert "no measurement: ZeroDivisionError: division by zero" in said


def test_an_error_above_a_row_is_said_beside_its_measurement(book, capsys):
    """The book stops there, so the row does not pass."""
    assert main(["check", "late"]) == 1
    said = capsys.readouterr().out
    assert "measured  0.25" in said and "PASS" in said
    assert "in the chapter before it: ZeroDivisionError: division by zero" in said


def test_a_row_whose_runs_are_missing_is_not_yet_and_no_failure(book, capsys):
    page = book / "01-one.md"
    page.write_text(page.read_text(encoding="utf-8").replace("1 / 0", "0"), encoding="utf-8")
    assert main(["check", "waits"]) == 0
    assert "NOT YET  its runs are not recorded (scale ci)" in capsys.readouterr().out


def test_the_chapter_ends_with_the_last_check_that_is_asked_for(book):
    def change(text):
        return text.replace("runs = []", "raise SystemExit")

    found = checking.execute("01-one", ["loop.w", "x"], change)
    assert [found[row].report.verdict for row in found] == ["FAIL", "PASS"]
    with pytest.raises(SystemExit):
        checking.execute("01-one", ["waits"], change)


def test_a_chapter_and_all(book, capsys):
    assert main(["check", "01-one"]) == 1
    chapter = capsys.readouterr().out
    assert main(["check", "--all"]) == 1
    assert capsys.readouterr().out == chapter and "NOT YET" in chapter


def test_bad_input_is_code_2(book, capsys):
    assert main(["check", "loop.v"]) == 2
    assert "no row 'loop.v'" in capsys.readouterr().err
    assert main(["check", "loop.u"]) == 2
    assert "near it: loop." in capsys.readouterr().err
    assert main(["check"]) == 2
    assert "which rows?" in capsys.readouterr().err


def test_without_the_chapters_it_says_where_they_are(book, capsys):
    (book / "01-one.md").unlink()
    assert main(["check", "x"]) == 2
    assert "come with the repository" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["pac-bayes.bound", "msam.definition", "fig07"])
def test_a_row_alone_passes_as_in_the_chapter(row):
    outcome = checking.execute(claims.find(row).chapter, [row])[row]
    assert outcome.expected and outcome.report.verdict == claims.Verdict.PASS
