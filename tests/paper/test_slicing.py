import ast

import pytest

from samkit.paper import slicing


def sliced(source):
    """The lines of a program (one statement each) that its last one needs."""
    program = slicing.statements(source)
    found = slicing.with_assertions(program, [len(program) - 1])
    return [ast.unparse(program[k].node) for k in found]


@pytest.mark.parametrize(
    "source, needed",
    [
        ("a = 1\nb = 2\nc = a", "a_c"),
        ("a = 1\na = 2\nc = a", "_ac"),  # the last binding wins
        ("a = []\na.append(1)\nc = a", "aac"),  # a method that may change
        ("a = 1\na.mean()\nc = a", "a_c"),  # and one that does not
        ("a = {}\na[0] = 1\nc = a", "aac"),
        ("a = 1\na += 1\nc = a", "aac"),
        ("a = 1\nif b:\n    a = 2\nc = a", "aac"),  # it may not happen
        ("for a in b:\n    a = 2\nc = 3", "_c"),
        ("for a in []:\n    pass\nc = [a for a in (1, 2)]", "_c"),  # a name of its own
        ("f = open(a)\nprint(f)\nc = f", "f_c"),
        ("f = 1\nfit(f, 2)\nc = f", "ffc"),  # called for what it changes
        ("import numpy as np\nx = np.ones(3)\nc = np.sum(2)", "i_c"),
        ("x, y = 1, 2\ny = 3\nc = x + y", "xyc"),
        ("with a as b:\n    d = b\nc = d", "wc"),
        ("try:\n    d = 1\nexcept ValueError:\n    pass\nc = d", "tc"),
    ],
)
def test_what_a_statement_needs(source, needed):
    lines = source.replace("\n    ", " ").replace("\nexcept", " except").split("\n")
    chosen = [k for k, mark in enumerate(needed) if mark != "_"]
    program = slicing.statements(source)
    assert len(program) == len(lines)
    assert slicing.backward(program, [len(lines) - 1]) == chosen


def test_a_function_reads_its_global_names_where_it_is_called():
    found = sliced("n = 1\ndef f():\n    return n\nn = 2\nm = 3\nx = f()")
    assert found[-2:] == ["n = 2", "x = f()"] and "m = 3" not in found


def test_a_function_changes_its_global_names_where_it_is_called():
    draw = "rng = Generator()\ndef draw():\n    return rng.normal()\n"
    found = sliced(draw + "a = draw()\nb = 1\nc = draw()")
    assert "a = draw()" in found and "b = 1" not in found


def test_a_lambda_and_a_class_count_as_functions():
    assert "k = 2" in sliced("k = 1\nf = lambda x: x * k\nk = 2\nc = f(3)")
    assert "k = 2" in sliced("k = 1\nclass A:\n    def g(self):\n        return k\nk = 2\nc = A()")


def test_torch_draws_follow_each_other():
    draws = "import torch\ntorch.manual_seed(0)\na = torch.randn(3)\nb = torch.randn(2)"
    assert len(sliced(draws)) == 4
    own = draws.replace("torch.randn(2)", "torch.randn(2, generator=g)")
    assert "a = torch.randn(3)" not in sliced(own)


def test_an_assertion_belongs_to_what_it_asserts():
    source = "a = 1\nb = 2\nassert a > 0\nassert b > 0\nc = a"
    assert sliced(source) == ["a = 1", "assert a > 0", "c = a"]
