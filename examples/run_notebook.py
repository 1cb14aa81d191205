"""Execute a notebook's cells, in a folder of their own, and keep what they print and show.

    python examples/run_notebook.py examples/quickstart.ipynb

What a cell ends with is shown as Jupyter shows it. Paths in the outputs are relative to the folder
and to that of the Python that runs them.
"""

import ast
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def run_notebook(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells, which run in the working folder.

    Raises:
        Exception: What a cell raises.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for count, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = count + 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            shown = _run_cell("".join(cell["source"]), names)
        cell["outputs"] = []
        if text := _relative(printed.getvalue()):
            stream = {"output_type": "stream", "name": "stdout", "text": text.splitlines(True)}
            cell["outputs"].append(stream)
        if shown is not None:
            data = {"text/plain": _relative(repr(shown)).splitlines(True)}
            if hasattr(shown, "_repr_html_"):
                data["text/html"] = _relative(shown._repr_html_()).splitlines(True)
            result = {"output_type": "execute_result", "metadata": {}, "data": data}
            cell["outputs"].append(result | {"execution_count": count + 1})
    return notebook


def _run_cell(source: str, names: dict[str, Any]) -> Any:
    """The value of the cell's last line, if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return None


def _relative(text: str) -> str:
    for folder in (Path.cwd(), Path(sys.prefix) / "bin"):
        text = text.replace(f"{folder}/", "")
    return text


def main() -> None:
    file = Path(sys.argv[1]).resolve()
    with TemporaryDirectory(dir="/tmp", prefix="nb") as folder:
        os.chdir(folder)
        notebook = run_notebook(json.loads(file.read_text("utf-8")))
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
