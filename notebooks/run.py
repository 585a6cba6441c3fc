"""Runs the notebooks from top to bottom, in place: `make notebooks`, or ``python notebooks/run.py NOTEBOOK ...``.

Each has a kernel and an empty working folder of its own, so that nothing is left behind but its outputs. With
ACTIVEBDL_FAST=1 they run in the form that the tests run, with less data and fewer steps, and are not written.
"""

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

HERE = Path(__file__).parent


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, as they are on any machine; it is run in ``folder``.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def smaller(png: str) -> str:
    """The same figure in 256 colours, which nobody misses, and in a third of the bytes."""
    picture, buffer = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    picture.convert("RGB").quantize(256).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the notebooks in place.")
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    fast = os.environ.get("ACTIVEBDL_FAST") == "1"
    failed = False
    for path in parser.parse_args().notebooks:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                notebook = run(path, Path(folder))
            except CellExecutionError as error:
                print(f"{path.name} failed:\n{error}", file=sys.stderr)
                failed = True
                continue
        if not fast:
            nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
