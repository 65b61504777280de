"""How to cite, said in three places: the page, CITATION.cff and the bibliography agree."""

import re

import pytest
import yaml
from pybtex.database import parse_string

import samkit
from tools.tree import ROOT


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def bib(source):
    return parse_string(source, "bibtex").entries


def plain(value):
    return value.replace("{", "").replace("}", "")


@pytest.fixture(scope="module")
def page():
    return bib("\n".join(re.findall(r"```bibtex\n(.*?)```", text("book/cite.md"), re.DOTALL)))


@pytest.fixture(scope="module")
def cff():
    return yaml.safe_load(text("CITATION.cff"))


def test_the_paper_is_that_of_the_bibliography(page):
    known = bib(text("book/references.bib"))["andriushchenko2022"]
    shown = page["andriushchenko2022"]
    assert shown.persons == known.persons
    for field, value in shown.fields.items():
        assert value == known.fields[field]


def test_the_paper_is_that_of_the_citation_file(page, cff):
    shown, paper = page["andriushchenko2022"], cff["preferred-citation"]
    assert shown.fields["title"] == paper["title"]
    assert shown.fields["year"] == str(paper["year"])
    assert shown.fields["pages"] == f"{paper['start']}--{paper['end']}"
    proceedings = "{booktitle} ({series} {volume})".format(**shown.fields)
    assert proceedings == paper["collection-title"]
    names = [(a["family-names"], a["given-names"]) for a in paper["authors"]]
    shown = [(p.last_names[0], p.first_names[0]) for p in shown.persons["author"]]
    assert shown == names


def test_the_software_is_that_of_the_citation_file(page, cff):
    software = page["samkit"]
    assert plain(software.fields["title"]) == cff["title"]
    assert plain(software.fields["version"]) == str(cff["version"]) == samkit.__version__
    assert software.fields["license"] == cff["license"]
    assert [plain(str(p)) for p in software.persons["author"]] == [
        a["name"] for a in cff["authors"]
    ]
    assert software.fields["year"] == yaml.safe_load(text("_config.yml"))["copyright"]
