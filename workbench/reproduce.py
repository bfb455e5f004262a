"""Do the notebooks still say what they say? Execute them all, keep their figures, and table how each one went.

1. The notebooks of `notebooks/` (or those whose names begin with the given numbers) run one after the other with papermill,
   with the parameters in their own first cell, in a kernel of the interpreter that runs this.
2. A notebook's figures are written to a folder beside the final one and take its place only when the notebook has succeeded, so a
   failure or a kill leaves the former figures whole.
3. Executed notebooks, outputs included, are kept in `artifacts/notebooks` for reading; git does not see them.
4. `index.md` beside the figures shows them all with their captions (`workbench.figures.gallery`).
5. A failure does not stop the others. The table at the end says notebook, status, seconds and number of figures.

Source: papermill (parameters, execution), ipykernel (the kernel's specification).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.activations import heap
from workbench.errors import InputError, NotFoundError, StorageError, fail
from workbench.figures.gallery import write_gallery
from workbench.keeping import replace_file, replaced_folder

SCALES = ("default", "small")
_FIGURES = {".png", ".html", ".csv"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one notebook went: its name, "ok" or "failed", seconds, figures written and, after a failure, what was wrong."""

    notebook: str
    status: str
    seconds: float
    figures: int
    error: str = ""


def repository() -> Path:
    """The checkout this package runs from.

    Raises
    ------
    NotFoundError
        When the package was installed without the repository around it.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir():
        fail(
            NotFoundError,
            f"no folder notebooks beside {root / 'workbench'}",
            "the repository around the package",
            "clone the repository and install from it with: pip install -c constraints.txt -e .",
        )
    return root


def find_notebooks(chosen: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """The notebooks whose file names begin with one of `chosen` (all without), in the order of their names.

    Raises
    ------
    NotFoundError
        When one of `chosen` fits no notebook.
    """
    folder = repository() / "notebooks" if folder is None else folder
    available = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    unknown = [name for name in chosen if not any(path.name.startswith(name) for path in available)]
    if unknown or not available:
        fail(
            NotFoundError,
            f"no notebook begins with {', '.join(unknown) or 'anything'} in {folder}",
            f"the beginning of one of: {', '.join(path.stem for path in available) or 'no notebook is there'}",
            "name notebooks by their number, for instance: workbench reproduce 00",
        )
    return [path for path in available if not chosen or path.name.startswith(tuple(chosen))]


def reproduce(
    chosen: Sequence[str] = (),
    *,
    scale: str = "default",
    figures: str | Path | None = None,
    notebooks: Path | None = None,
    executed: Path | None = None,
) -> list[Outcome]:
    """Execute notebooks and keep their figures.

    Parameters
    ----------
    chosen : sequence of str
        Beginnings of notebook names such as "00"; all notebooks if empty.
    scale : {"default", "small"}
        "small" replaces the parameters that a notebook's metadata lists under `workbench.small`.
    figures : path, optional
        Where `<notebook>/<figure>.png|html|csv` go; by default `figures` in the repository.
    notebooks, executed : path, optional
        Where notebooks are read and their executed copies written; by default `notebooks` and `artifacts/notebooks` there.

    Raises
    ------
    NotFoundError
        For a name that fits no notebook.
    InputError
        For an unknown scale.
    StorageError
        When the folders cannot be written.
    """
    if scale not in SCALES:
        fail(InputError, f"scale {scale!r}", f"one of {', '.join(SCALES)}", "choose one of them")
    paths = find_notebooks(chosen, notebooks)
    figures = Path(figures) if figures is not None else repository() / "figures"
    executed = Path(executed) if executed is not None else repository() / "artifacts" / "notebooks"
    outcomes = []
    try:
        executed.mkdir(parents=True, exist_ok=True)
        with _own_kernel():
            for number, path in enumerate(paths, 1):
                print(f"[{number}/{len(paths)}] {path.stem}", flush=True)
                outcomes.append(_run(path, scale, figures.resolve(), executed))
        write_gallery(figures.resolve(), repository() / "notebooks" if notebooks is None else notebooks.resolve())
    except OSError as error:
        fail(
            StorageError,
            f"{error.filename or figures} could not be written ({error.strerror or error})",
            "folders that can be written",
            "free some space, or choose another place with --figures",
            cause=error,
        )
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as aligned text: notebook, status, seconds, figures, and below it what failed."""
    width = max([len("notebook"), *(len(outcome.notebook) for outcome in outcomes)])
    lines = [f"{'notebook':<{width}}  status  seconds  figures"]
    lines += [f"{o.notebook:<{width}}  {o.status:<6}  {o.seconds:>7.1f}  {o.figures:>7}" for o in outcomes]
    lines += [f"\n{o.notebook} failed: {o.error}" for o in outcomes if o.error]
    return "\n".join(lines)


class _Failed(Exception):
    """A notebook that did not run to its end: what it drew is thrown away."""


def _run(path: Path, scale: str, figures: Path, executed: Path) -> Outcome:
    started, error, written = time.perf_counter(), "", 0
    try:
        with replaced_folder(figures / path.stem, holds=("*.png", "*.html", "*.csv", "*.json", "*.js")) as staged:
            output = staged / path.name
            try:
                _execute(path, scale, staged, output)
            finally:  # of a notebook that failed, too, to look at
                if output.is_file():
                    replace_file(executed / path.name, output.read_bytes())
                    output.unlink()
            written = len({file.stem for file in staged.iterdir() if file.suffix in _FIGURES})
    except _Failed as failure:
        error = f"{failure} (the executed notebook is {executed / path.name})"
    return Outcome(path.stem, "failed" if error else "ok", time.perf_counter() - started, written, error)


def _execute(path: Path, scale: str, staged: Path, output: Path) -> None:
    """Run a notebook; its figures go to `staged`. Raises _Failed."""
    import nbformat
    import papermill

    before = os.environ.get("WORKBENCH_FIGURES")
    os.environ["WORKBENCH_FIGURES"] = str(staged)
    try:
        small = nbformat.read(path, as_version=4).metadata.get("workbench", {}).get("small", {})
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters=dict(small) if scale == "small" else {},
            kernel_name="python3",
            language="python",
            cwd=str(path.parent),
            progress_bar=sys.stderr.isatty(),
        )
    except papermill.PapermillExecutionError as failure:
        raise _Failed(f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}") from failure
    except (RuntimeError, ValueError, nbformat.ValidationError, papermill.exceptions.PapermillException) as failure:
        raise _Failed(f"{type(failure).__name__}: {failure}") from failure  # no kernel, or no notebook
    finally:
        os.environ.pop("WORKBENCH_FIGURES") if before is None else os.environ.update(WORKBENCH_FIGURES=before)


@contextlib.contextmanager
def _own_kernel() -> Iterator[None]:
    """Make "python3" mean this interpreter, whatever kernels the machine has: JUPYTER_PATH goes first."""
    from ipykernel.kernelspec import write_kernel_spec

    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="workbench-kernel-") as folder:
        write_kernel_spec(Path(folder) / "kernels" / "python3", overrides={"env": heap.ENVIRONMENT})
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH") if before is None else os.environ.update(JUPYTER_PATH=before)
