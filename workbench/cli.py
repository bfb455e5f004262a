"""The `workbench` command: reproduce the notebooks, open the lab, look at models and SAEs, train and verify the zoo.

1. One sub-command is one parser with `set_defaults(run=function)`; `main` calls `run(arguments)` and returns its exit status.
2. A WorkbenchError is one line on stderr and exit status 2; an interrupt is status 130; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import NotFoundError, WorkbenchError, fail

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `workbench`; those of the command line by default.
    """
    try:
        top = parser()
        options, rest = top.parse_known_args(arguments)
        if rest and not getattr(options, "passes_on", False):
            getattr(options, "parser", top).error(f"unrecognized arguments: {' '.join(rest)}")
        options.rest = rest
        return options.run(options) or 0
    except WorkbenchError as error:
        print(f"workbench: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(prog="workbench", description="A workbench for sparse autoencoders of language models.")
    commands = top.add_subparsers(required=True, metavar="command")

    reproduce = commands.add_parser("reproduce", help="execute the notebooks and write their figures")
    reproduce.add_argument("notebooks", nargs="*", metavar="NN", help="numbers of notebooks, for instance 00; all of them if none is given")
    reproduce.add_argument("--scale", choices=("default", "small"), default="default", help="small: fewer tokens, for a quick look")
    reproduce.add_argument("--figures", metavar="DIR", help="where figures go (default: figures in the repository)")
    reproduce.set_defaults(run=_reproduce, parser=reproduce)

    lab = commands.add_parser("lab", help="open JupyterLab in the notebooks; further arguments go to JupyterLab")
    lab.add_argument("--folder", metavar="DIR", help="open this folder instead of the repository's notebooks")
    lab.set_defaults(run=_lab, parser=lab, passes_on=True)

    catalog = commands.add_parser("catalog", help="list the models and SAEs that can be loaded by name")
    catalog.add_argument("words", nargs="*", metavar="WORD", help="only rows that contain all these words")
    catalog.set_defaults(run=_catalog, parser=catalog)

    preflight = commands.add_parser("preflight", help="measure whether an SAE fits a model")
    preflight.add_argument("model", metavar="MODEL", help="embedded name, folder or hub id")
    preflight.add_argument("sae", metavar="SAE", help="embedded name, folder, or SAELens release")
    preflight.add_argument("sae_id", nargs="?", metavar="ID", help="SAE id within a SAELens release")
    preflight.add_argument("--tokens", type=_positive, default=50_000, help="tokens to measure on (default: %(default)s)")
    preflight.add_argument("--corpus", default="python-source", help="text to measure on (default: %(default)s)")
    preflight.set_defaults(run=_preflight, parser=preflight)

    if importlib.util.find_spec("workbench.training.cli"):
        importlib.import_module("workbench.training.cli").add_commands(commands)
    return top


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a number above 0")
    return value


def _reproduce(options: argparse.Namespace) -> int:
    from workbench.reproduce import reproduce, table

    outcomes = reproduce(options.notebooks, scale=options.scale, figures=options.figures)
    print("\n" + table(outcomes))
    return int(any(outcome.status != "ok" for outcome in outcomes))


def _lab(options: argparse.Namespace) -> int:
    from workbench.reproduce import repository

    folder = Path(options.folder).resolve() if options.folder else repository() / "notebooks"
    if not folder.is_dir():
        fail(NotFoundError, f"no folder {folder}", "a folder that exists", "create it, or leave --folder out")
    if importlib.util.find_spec("jupyterlab") is None:
        fail(NotFoundError, "JupyterLab is not installed", "the package jupyterlab", "run the install command of the README")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", *options.rest]
    if os.geteuid() == 0 and not any("allow-root" in word or "allow_root" in word for word in options.rest):
        command.append("--allow-root")  # in a container one is root; the server still asks for its token
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _catalog(options: argparse.Namespace) -> int:
    from workbench import catalog

    table = catalog()
    text = table.map(str).agg(" ".join, axis=1).str.lower()  # astype(str) keeps missing values as they are
    for word in options.words:
        keep = text.str.contains(word.lower(), regex=False)
        table, text = table[keep], text[keep]
    if not len(table):
        fail(
            NotFoundError,
            f"no model or SAE with {' '.join(options.words)}",
            "words that occur in a name, model, hook or architecture",
            "run `workbench catalog` without words to see everything",
        )
    print(table.to_string(index=False, na_rep="", max_colwidth=60))
    return 0


def _preflight(options: argparse.Namespace) -> int:
    from workbench import corpus, load_model, load_sae, preflight

    model = load_model(options.model)
    sae = load_sae(options.sae, options.sae_id)
    tokens = corpus(options.corpus, tokenizer=model.tokenizer, n_tokens=options.tokens)
    report = preflight(model, sae, tokens)
    print(report.checks.to_string(index=False, na_rep=""))
    print(f"\nverdict: {report.verdict}: {report.reason}")
    return int(report.verdict == "wrong")
