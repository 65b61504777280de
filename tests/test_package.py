import subprocess
import sys

import pytest

import samkit


@pytest.mark.parametrize(
    "module",
    ["samkit", "samkit.claims", "samkit.data", "samkit.diagonal", "samkit.errors", "samkit.theory"],
)
def test_importing_does_not_import_torch_or_matplotlib(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


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
