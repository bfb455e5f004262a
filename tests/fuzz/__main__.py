"""What does every reader do with damaged and hostile files? `python -m tests.fuzz [--n 1000] [--readers NAME ...] [--group NAME]`.

1. Each mutant is decided by its reader's name and its number; it is read in a forked process that is watched for time and memory.
2. It has to come back equal (or, where no hash covers it, at least be read), or be refused by a WorkbenchError, within 10 s and 500 MB.
3. Prints a row a reader, and the recipe of every mutant that does anything else; leaves with 1 if there is one.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

SECONDS, MEGABYTES = 10, 500
OUTCOMES = ("equal", "read", "refused", "other", "raw", "slow", "large")


def digest(value: Any) -> str:
    """A hash of what was read, with types and bits."""
    import numpy as np

    def walk(one: Any, into: Any) -> None:
        into.update(type(one).__name__.encode())
        if isinstance(one, np.ndarray) and one.dtype != object:
            into.update(f"{one.dtype}{one.shape}".encode() + one.tobytes())
        elif isinstance(one, (list, tuple, np.ndarray)):
            for item in one:
                walk(item, into)
        elif isinstance(one, dict):
            for item in one.items():
                walk(item, into)
        elif dataclasses.is_dataclass(one):
            walk(vars(one), into)
        elif type(one) is int:
            into.update(hex(one).encode())  # Python writes no decimal number of more than 4,300 digits
        elif hasattr(one, "tocoo"):
            walk([one.shape, one.toarray()], into)
        elif hasattr(one, "to_dict"):
            into.update(repr([one.to_dict(), str(getattr(one, "dtypes", ""))]).encode("utf-8", "surrogatepass"))
        else:
            into.update(repr(sorted(one, key=repr) if isinstance(one, (set, frozenset)) else one).encode("utf-8", "surrogatepass"))

    made = hashlib.sha256()
    walk(value, made)
    return made.hexdigest()


def memory(what: str) -> float:
    """Megabytes of this process: "VmHWM" the most since `forget_peak`, "VmRSS" now, "VmSize" with what is only reserved."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def attempt(reader: Any, folder: Path, expected: str) -> dict:
    """Read one mutant in this process."""
    from workbench.errors import WorkbenchError

    forget_peak()
    before, start = memory("VmRSS"), time.monotonic()
    detail = ""
    try:
        found = digest(reader.read(folder))
        outcome = "equal" if found == expected else "read"
    except WorkbenchError as error:
        outcome, detail = "refused", str(error)[:200]
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "t allocate memory" in str(cause):
                outcome = "large"
            cause = cause.__cause__ or cause.__context__
        if not all(part in str(error) for part in ("Expected: ", "To mend it: ")) and str(error) != "computed again":
            outcome = "raw"
    except MemoryError:
        outcome = "large"
    except BaseException as error:  # noqa: BLE001 - what is counted here
        where = [frame for frame in traceback.extract_tb(error.__traceback__) if "/workbench/" in frame.filename]
        at = f"{Path(where[-1].filename).name}:{where[-1].lineno}" if where else ""
        outcome, detail = "raw", f"{type(error).__name__}: {str(error)[:150]!r} at {at}"
    seconds, grown = time.monotonic() - start, memory("VmHWM") - before
    if seconds > SECONDS:
        outcome = "slow"
    elif grown > MEGABYTES:
        outcome = "large"
    return {"outcome": outcome, "detail": detail, "seconds": seconds, "megabytes": grown}


def run(name: str, reader: Any, work: Path, n: int, first: int) -> list[dict]:
    """The outcomes of mutants first, ..., first + n - 1 of one reader."""
    from tests.fuzz.mutants import copied, mutate

    original = work / "original" / name.replace("/", "_").replace(" ", "_")
    original.mkdir(parents=True)
    reader.build(original)
    place = work / "mutant"
    expected = digest(reader.read(copied(original, place)))  # at the place where the mutants will be, since some results tell it
    results: list[dict] = []
    while len(results) < n:
        out, into = os.pipe()
        child = os.fork()
        if not child:
            os.close(out)
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            limit = int((memory("VmSize") + 1500) * 2**20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            for i in range(first + len(results), first + n):
                recipe = mutate(copied(original, place), f"{name}:{i}")
                os.write(into, json.dumps({"i": i, "recipe": recipe}).encode() + b"\n")
                os.write(into, json.dumps(attempt(reader, place, expected)).encode() + b"\n")
            os._exit(0)
        os.close(into)
        results += watch(child, out, n - len(results), reader.hashed)
    return results


def watch(child: int, out: int, n: int, hashed: bool) -> list[dict]:
    """What a child tells of its mutants, up to the first that it does not survive."""
    told, pending, results = b"", None, []
    while len(results) < n:
        ready, _, _ = select.select([out], [], [], 60 if pending is None else SECONDS + 5)
        more = os.read(out, 1 << 16) if ready else b""
        told += more
        while b"\n" in told:
            line, told = told.split(b"\n", 1)
            found = json.loads(line)
            if pending is None:
                pending = found
                continue
            if hashed and found["outcome"] == "read" and "(sealed)" not in pending["recipe"]:
                found["outcome"] = "other"
            results.append(pending | found)
            pending = None
        if not more and len(results) < n:
            if not ready:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            os.close(out)
            if pending is None:
                raise RuntimeError(f"a mutant could not be made (status {status})")
            outcome = "slow" if not ready else "raw"
            return [
                *results,
                pending
                | {"outcome": outcome, "detail": f"the process ended ({status})" if ready else "stuck", "seconds": 0, "megabytes": 0},
            ]
    os.waitpid(child, 0)
    os.close(out)
    return results


def fixtures(work: Path) -> tuple[Path, Path]:
    """The tiny model and SAE of tests/conftest.py."""
    from tests import conftest

    class Folders:
        def mktemp(self, name: str) -> Path:
            (work / name).mkdir(exist_ok=True)
            return work / name

    made = {name: getattr(conftest, name).__wrapped__ for name in ("tiny_tokenizer", "tiny_llama", "tiny_sae")}
    return made["tiny_llama"](Folders(), made["tiny_tokenizer"]()), made["tiny_sae"](Folders())


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=int(os.environ.get("WORKBENCH_FUZZ", 200)))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--readers", nargs="*")
    parser.add_argument("--group")
    parser.add_argument("--show", type=int, default=10, help="how many mutants to tell of a reader")
    options = parser.parse_args(given)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from tests.fuzz.readers import readers

    bad = 0
    print("| reader | " + " | ".join(OUTCOMES) + " | slowest s | largest MB |")
    print("|---" * (len(OUTCOMES) + 3) + "|")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["WORKBENCH_CACHE"] = str(work / "cache")
        for name, reader in readers(*fixtures(work)).items():
            if (options.readers and name not in options.readers) or (options.group and reader.group != options.group):
                continue
            results = run(name, reader, work, options.n, options.first)
            counts = collections.Counter(result["outcome"] for result in results)
            print(
                f"| {name} | "
                + " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
                + f" | {max(result['seconds'] for result in results):.1f} | {max(result['megabytes'] for result in results):.0f} |",
                flush=True,
            )
            wrong = [result for result in results if result["outcome"] not in ("equal", "read", "refused")]
            bad += len(wrong)
            for result in wrong[: options.show]:
                print(f"    {name}:{result['i']} {result['outcome']} [{result['recipe']}] {result['detail']}", file=sys.stderr, flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
