"""Runs the notebooks in examples/ and stores what they show, small: python docs/notebooks.py [NAME ...]"""

import base64
import io
import pathlib
import sys
import tempfile

import nbclient
import nbformat
from PIL import Image

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
COLOURS = 24  # in a picture: it looks nearly the same with a third of the bytes


def small(picture):
    """A PNG in base64, with fewer colours."""
    image, file = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def refresh(path):
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,  # of a progress bar only its end
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small(output.data["image/png"])
    notebook.metadata.language_info = {"name": "python"}  # not the version of this Python
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    for path in [EXAMPLES / name for name in sys.argv[1:]] or sorted(EXAMPLES.glob("*.ipynb")):
        refresh(path)
