"""Does a training that is killed again and again end with the same bytes?

Run by hand: python tests/kills/training.py [--kills 40] [what ...]

1. Every SAE architecture and the language model are trained on a tiny problem, once in peace.
2. The same training runs in a child process that is killed (SIGKILL) at a random moment and started again in the same folders: some time
   after its start, in one of its next checkpoints, or in its export. When it ends, another run begins, until there were so many kills.
3. Every run's finished folder has to have the bytes of the one in peace, and nothing may be left of the killed ones.

The libraries are imported once; children are forked, before torch has started a thread.
"""

import argparse
import dataclasses
import itertools
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}  # no threads before the forks
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny products are slower with more

import numpy as np
import sae_lens  # noqa: F401  imported here so that no child has to
import transformers  # noqa: F401

from workbench.training import language_model, saes
from workbench.training.recipes import ARCHITECTURES, SAERecipe

STEPS, BATCH = 500, 32
STARTS = {"relu": 0.1, "jumprelu": 0.02}


def planted() -> np.ndarray:
    """Activations (5000, 16) of 24 directions, fewer than there are latents: some of these die."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((24, 16))
    codes = (rng.random((5000, 24)) < 0.1) * rng.uniform(0.5, 1.5, (5000, 24))
    return (codes @ directions + 1).astype(np.float32)


def sae_training(architecture: str, checkpoint_steps: int):
    """A function that trains into `place`."""
    recipe = SAERecipe("m", 1, architecture, k=4, width=64, tokens=STEPS * BATCH, batch=BATCH,
                       sparsity_coefficient=STARTS.get(architecture, 0.0))  # fmt: skip
    rows = planted()
    return lambda place: saes.train_sae(recipe, rows, place / "sae", place / "work", checkpoint_tokens=checkpoint_steps * BATCH)


def model_training(checkpoint_steps: int, scratch: Path):
    """The same for a tiny language model, with two phases of each optimiser."""
    from workbench.training.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(scratch / "tokenizer", vocabulary=2400, corpus_characters=200_000, prompt_share=6.0)
    phases = tuple(language_model.Phase(20, optimizer, drawn_tasks=1, repeats=1) for optimizer in ("adamw", "muon") * 2)
    config = dataclasses.replace(language_model.config_for("pylm-2l"), phases=phases, warmup=3, horizon=60, d_model=32, n_heads=4, d_mlp=48,
                                 context=64, rows=4, corpus_tokens=4_000)  # fmt: skip
    settings = {"checkpoint_every": max(1, checkpoint_steps // 4), "evaluate_every": 10}
    return lambda place: language_model.train_language_model(config, tokenizer, place / "model", place / "work", **settings)


def report(pipe: int) -> None:
    """Let the training tell where it is: r(esumed) and a step, c(heckpoint) or e(xport) begun, `.` when that is over."""

    def told(module, name, letter):
        real = getattr(module, name)

        def function(*arguments, **named):
            os.write(pipe, f"{letter} 0\n".encode())
            found = real(*arguments, **named)
            os.write(pipe, b". 0\n")
            return found

        setattr(module, name, function)

    def resumed(module):
        real = module.read_checkpoint

        def function(*arguments):
            state = real(*arguments) or {}
            os.write(pipe, f"r {state.get('position', state.get('step', 0))}\n".encode())
            return state or None

        module.read_checkpoint = function

    for module, export in ((saes, "_export"), (language_model, "export")):
        resumed(module)
        told(module, "write_checkpoint", "c")
        told(module, export, "e")
    told(saes, "remove_checkpoint", "e")


@dataclasses.dataclass
class Child:
    """One process that trains; `told` is what it reported so far."""

    train: object
    place: Path

    def __post_init__(self) -> None:
        self.pipe, write = os.pipe()
        self.told, self._buffer, self.ended = [], b"", False
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.pipe)
                with open(self.place.with_name(f"{self.place.name}.output"), "w") as output:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                    report(write)
                    self.train(self.place)
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(write)

    def listen(self, seconds: float) -> None:
        """Take what it reports within the time, until one report or its end."""
        if select.select([self.pipe], [], [], max(0.0, seconds))[0]:
            new = os.read(self.pipe, 4096)
            self.ended |= not new
            *lines, self._buffer = (self._buffer + new).split(b"\n")
            self.told += [(*line.decode().split(), time.monotonic()) for line in lines]

    def until(self, seconds: float, letter: str = "", count: int = 1) -> None:
        """Wait some time, or so long for a report to come so many times."""
        end = time.monotonic() + seconds
        while not self.ended and time.monotonic() < end and not (letter and sum(told[0] == letter for told in self.told) >= count):
            self.listen(end - time.monotonic())

    def end(self, kill: bool) -> int:
        """Kill it, or wait for its end; the exit status (-9 for a killed one)."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        self.until(600)
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def durations(told: list[tuple[str, str, float]], letter: str) -> float:
    """The median time between a report and the next one."""
    return float(np.median([after[2] - before[2] for before, after in itertools.pairwise(told) if before[0] == letter]))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wrong(place: Path, peace: Path) -> list[str]:
    """What of a run's folders is not as after a run in peace."""
    there, here = content(peace), content(place)
    same = {name for name in there.keys() & here.keys() if there[name] == here[name]}
    # The log tells seconds and is compared by its steps; the language model's last checkpoint holds them, too.
    timed = {name for name in there if name.startswith("work/")}
    steps = [[line.split(b",")[0] for line in found.get("work/log.jsonl", b"").splitlines()] for found in (there, here)]
    folders = [sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()) for root in (peace, place)]
    return ([f"{name} differs" for name in sorted(there.keys() & here.keys() - same - timed)]
            + [f"{name} is left or missing" for name in sorted(there.keys() ^ here.keys())]
            + ["the log has other steps"] * (steps[0] != steps[1]) + [f"folders {folders[1]}"] * (folders[0] != folders[1]))  # fmt: skip


def check(name: str, train, kills: int, rng: np.random.Generator, scratch: Path) -> bool:
    """Train in peace, then with kills; print a line."""
    peace = scratch / "peace"
    peace.mkdir(parents=True)
    began, child = time.monotonic(), Child(train, peace)
    if child.end(kill=False):
        print(f"{name}: the run in peace failed\n{(scratch / 'peace.output').read_text()[-2000:]}")
        return False
    seconds, lasting = time.monotonic() - began, {letter: durations(child.told, letter) for letter in "ce"}
    done, runs, resumed, where, troubles = 0, 0, [], Counter(), []
    while done < kills and len(troubles) < 3:
        place = scratch / f"run{runs}"
        place.mkdir()
        runs, status = runs + 1, -signal.SIGKILL
        while status == -signal.SIGKILL:
            child, aim = Child(train, place), rng.random()
            if done >= kills:
                pass
            elif aim < 0.3:
                child.until(rng.uniform(0, seconds / 3))
            elif aim < 0.6:
                child.until(60, "c", int(rng.integers(1, 12)))
                child.until(rng.uniform(0, lasting["c"]))
            else:
                child.until(60, "e", int(rng.integers(1, 3)))  # the second of an SAE removes its checkpoint
                child.until(rng.uniform(0, 1.5 * lasting["e"]))
            status = child.end(kill=done < kills and not child.ended)
            resumed += [int(number) for letter, number, _ in child.told if letter == "r"]
            if status == -signal.SIGKILL:
                done += 1
                where[next((letter for letter, *_ in reversed(child.told)), "")] += 1
        if status:
            troubles.append(f"a start failed: {place.with_name(place.name + '.output').read_text().strip().splitlines()[-1]}")
        else:
            troubles += wrong(place, peace)
        shutil.rmtree(place)
    equal = "NO: " + "; ".join(dict.fromkeys(troubles)) if troubles else "yes"
    print(f"{name:14} {done:5} {runs:4} {where['c']:13} {where['e']:9}  {equal:5}  {sorted(set(resumed))}", flush=True)
    return not troubles


def main() -> int:
    every = [*ARCHITECTURES, "model"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"among {every}; all of them without")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--checkpoint-steps", type=int, default=10, help="steps between checkpoints; a fourth for the model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    good = True
    print(f"{'':14} {'kills':>5} {'runs':>4} {'in checkpoint':>13} {'in export':>9}  equal  resumed at", flush=True)
    for name in arguments.what or every:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            scratch, steps = Path(folder), arguments.checkpoint_steps
            train = model_training(steps, scratch) if name == "model" else sae_training(name, steps)
            good &= check(name, train, arguments.kills, np.random.default_rng([arguments.seed, every.index(name)]), scratch / "runs")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
