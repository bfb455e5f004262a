"""Is a saved result always the old or the new one when its writer is killed? By hand: `python tests/kills/results.py [--kills 100]`.

1. A process saves results 1, 2, 3, ... to one place, without pause, and says which one it has saved.
2. It is killed (SIGKILL) at a random instant, and the result is read: it has to be the last that was told as saved, or the one after it.
3. The next process goes on from there. What the killed ones left beside the pair has to be gone at the end.

Prints how often the read result was the one told, how often the one after it, and how often anything else; leaves with 1 for the last.
"""

import argparse
import collections
import dataclasses
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from workbench.results import Result


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Counted(Result):
    """A number beside 200 kB of it."""

    number: int
    values: np.ndarray


def write(path: Path, number: int) -> None:
    while True:
        noise = np.random.default_rng(number).random(25_000)
        Counted(number=number, values=np.append(noise, number), provenance={}).save(path)
        print(number, flush=True)
        number += 1


def read(path: Path) -> int:
    found = Counted.load(path)
    if found.values[-1] != found.number or not np.array_equal(found.values[:-1], np.random.default_rng(found.number).random(25_000)):
        raise AssertionError("a mixture of two results")
    return found.number


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--write", nargs=2, help="for the processes that it starts")
    given = parser.parse_args()
    if given.write:
        write(Path(given.write[0]), int(given.write[1]))
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, last = Path(folder) / "result", 0
        chance = random.Random(0)
        for _ in range(given.kills):
            command = [sys.executable, __file__, "--write", str(path), str(last + 1)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                told = int(writer.stdout.readline())  # it has begun
                time.sleep(chance.random() * 0.06)
                writer.kill()
                told = max([told, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
            try:
                last = read(path)
                counts["the one told" if last == told else "the one after it" if last == told + 1 else "another one"] += 1
            except Exception as error:  # noqa: BLE001 - counted
                counts[f"{type(error).__name__}: {error}"] += 1
            counts["killed with files beside the pair"] += len(list(Path(folder).iterdir())) > 2
        Counted(number=0, values=np.zeros(1), provenance={}).save(path)
        left = sorted(one.name for one in Path(folder).iterdir())
    print(f"{given.kills} kills, {last:,} results saved")
    for what, count in sorted(counts.items()):
        print(f"{count:6d}  {what}")
    print("left at the end:", ", ".join(left))
    allowed = {"the one told", "the one after it", "killed with files beside the pair"}
    return int(bool(set(counts) - allowed) or left != ["result.json", "result.npz"])


if __name__ == "__main__":
    sys.exit(main())
