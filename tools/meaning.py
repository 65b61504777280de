"""What a program does, as text: without its comments, its layout and its docstrings."""

from __future__ import annotations

import ast
from functools import lru_cache


@lru_cache(256)  # the same module is asked for by every chapter, and by every mutant
def statements(program: str) -> tuple[str, ...]:
    """The statements of the outermost level, each in a form that changes when it does."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
    return tuple(ast.unparse(statement) for statement in tree.body)
