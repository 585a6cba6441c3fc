"""What `import activebdl` gives, and what it does not load."""

import json
import subprocess
import sys

import pytest

import activebdl

LOADED = """
import json, sys
sys.argv = ["activebdl", *{arguments}]
try:
    {statement}
finally:
    print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def told(statement: str, *arguments: str) -> tuple[set[str], str]:
    """The packages that a fresh process has loaded after the statement, and what it printed."""
    script = LOADED.format(statement=statement, arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, packages = done.stdout.splitlines()
    return set(json.loads(packages)), "\n".join(lines)


def loaded(statement: str, *arguments: str) -> set[str]:
    return told(statement, *arguments)[0]


def test_every_public_name_is_there_and_no_other() -> None:
    assert sorted(activebdl.__all__) == sorted(name for names in activebdl._HOMES.values() for name in names)
    for home, names in activebdl._HOMES.items():
        for name in names:
            found = getattr(activebdl, name)
            assert getattr(sys.modules[home], name) is found
    assert set(activebdl.__all__) <= set(dir(activebdl))
    assert activebdl.metrics is sys.modules["activebdl.metrics"]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="module 'activebdl' has no attribute 'Unheard'"):
        _ = activebdl.Unheard  # pyright: ignore[reportAttributeAccessIssue]


def test_the_import_alone_loads_next_to_nothing() -> None:
    assert not loaded("import activebdl") & {"torch", "numpy", "pydantic", "mlflow", "typer", "matplotlib"}
    core = loaded("import activebdl; activebdl.ActiveLearning; import activebdl.oracles.web")
    assert "torch" in core
    assert not core & {"pydantic", "mlflow", "typer", "matplotlib", "sklearn", "scipy", "yaml", "starlette", "uvicorn"}


def test_help_needs_no_torch() -> None:
    after = loaded("from activebdl.cli import main; main()", "--help")
    assert "typer" in after and "torch" not in after
