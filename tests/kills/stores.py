"""Harvests, codes, layouts and figures under `kill -9`: run by hand, `python tests/kills/stores.py [--kills 40]`.

Each kind of work runs in a child that is killed at a random instant, again and again, until it has been killed as often as asked; then it
runs to its end. Printed are: kills, runs that ended, whether a reader beside it ever saw something else than a whole result or one clear
error, whether the end is that of an undisturbed run, byte for byte, and what is left beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

HOOK = "blocks.1.hook_resid_post"


def in_child(work, *, kill_after: float | None = None) -> bool:
    """Run `work` in a forked process; True when it ended by itself."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:
            print("child:", type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is None:
        return os.waitpid(pid, 0)[1] == 0
    until = time.monotonic() + kill_after
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, "the child failed by itself"
            return True
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Reader(threading.Thread):
    """Reads a place again and again until it is told to stop; collects what is neither whole nor refused."""

    def __init__(self, read, whole) -> None:
        super().__init__(daemon=True)
        self.read, self.whole, self.stop, self.wrong, self.times, self.found = read, whole, threading.Event(), [], 0, 0

    def run(self) -> None:
        """Until `stop` is set."""
        from workbench.errors import WorkbenchError

        while not self.stop.is_set():
            self.times += 1
            try:
                found = self.read()
                self.found += 1
                if not self.whole(found):
                    self.wrong.append("another content")
            except WorkbenchError:
                pass
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")
            time.sleep(0.002)


def killed(name: str, work, place: Path, *, read, whole, kills: int, rng: random.Random, expected: dict[str, bytes]) -> None:
    """One line of the table."""
    started = time.monotonic()
    assert in_child(work)
    seconds = time.monotonic() - started
    reader = Reader(read, whole)
    reader.start()
    n, ended = 0, 0
    while n < kills:
        done = in_child(work, kill_after=rng.uniform(0, 1.3 * seconds))
        n, ended = n + (not done), ended + done
    assert in_child(work)
    reader.stop.set()
    reader.join()
    left = [path.name for path in place.parent.iterdir() if path.name.startswith(".")]
    left += [str(path) for path in place.rglob(".*")]
    print(f"{name:<34} kills {n:>3}  ended {ended:>3}  reads {reader.times:>5}, whole {reader.found:>5}, wrong {len(reader.wrong)} "
          f"{set(reader.wrong) or ''}  as undisturbed: {content(place) == expected}  left: {left or 'nothing'}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=40)
    options = parser.parse_args()
    import torch

    import workbench as wb
    from workbench.activations import ActivationStore, FeatureCodes
    from workbench.geometry import layout

    torch.set_num_threads(1)  # a child of a fork has no threads of its parent
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        os.environ["WORKBENCH_CACHE"] = str(root / "cache")
        model, sae = wb.load_model("pylm-2l", device="cpu"), wb.load_sae("pylm-2l/l1-topk32-w1024-s0", device="cpu")
        texts = [wb.corpus("python-source", tokenizer=model.tokenizer, n_tokens=4_096, context=64, seed=seed) for seed in (0, 1)]
        few = {"batch_size": 8, "shard_tokens": 512, "progress": False}

        def harvests(text, folder, **more):
            return lambda: wb.harvest(model, texts[text], HOOK, store=folder, **few, **more)

        whole = {}
        for text in (0, 1):
            assert in_child(harvests(text, root / f"whole{text}"))
            whole[text] = ActivationStore.open(root / f"whole{text}").read(HOOK)

        def rows(folder):
            store = ActivationStore.open(folder)
            return store.tokens.sha256, store.read(HOOK)

        def is_one(found):
            text = [text.sha256 for text in texts].index(found[0])
            return np.array_equal(found[1], whole[text])

        (root / "a").mkdir()

        def anew():
            for path in (root / "a" / "store").glob("shard-0000[1-7]*"):  # as if it had only begun
                path.unlink()
            harvests(0, root / "a" / "store")()

        killed("harvest, resumed", anew, root / "a" / "store", read=lambda: rows(root / "a" / "store"), whole=is_one, kills=options.kills,
               rng=rng, expected=content(root / "whole0"))

        (root / "b").mkdir()
        turn = iter(range(10**9))

        def other():
            harvests(next(turn) % 2, root / "b" / "store", resume=False)()

        def to_the_first():
            harvests(0, root / "b" / "store", resume=False)()

        for _ in range(options.kills):
            next(turn)
        killed("harvest of another text (replace)", lambda: (harvests(1, root / "b" / "store", resume=False)(), to_the_first()),
               root / "b" / "store", read=lambda: rows(root / "b" / "store"), whole=is_one, kills=options.kills, rng=rng,
               expected=content(root / "whole0"))

        store = ActivationStore.open(root / "whole0")
        (root / "c").mkdir()
        assert in_child(lambda: wb.encode(store, HOOK, sae, path=root / "codes", progress=False))
        codes = FeatureCodes.load(root / "codes").csr
        killed("codes (replace)", lambda: wb.encode(store, HOOK, sae, path=root / "c" / "codes", progress=False), root / "c" / "codes",
               read=lambda: FeatureCodes.load(root / "c" / "codes").csr, whole=lambda csr: (csr != codes).nnz == 0, kills=options.kills,
               rng=rng, expected=content(root / "codes"))

        orphans(layout, root, options.kills // 8 or 1)


def orphans(layout, root: Path, kills: int) -> None:
    """Parents that began a layout are killed; what is left of their children after two seconds?"""
    import subprocess

    left = 0
    for number in range(kills):
        code = ("import numpy as np, sys, time; from workbench.geometry import layout;"
                f"layout.begin_umap_layout(np.random.default_rng({number}).normal(size=(4000, 64)));"
                "print(*(p.pid for p in layout._BEGUN.values()), flush=True); time.sleep(600)")
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
            child = int(parent.stdout.readline())
            time.sleep(random.Random(number).uniform(0.1, 6))
            parent.kill()
        time.sleep(2)
        if alive(child):
            left += 1
            os.kill(child, signal.SIGKILL)
    print(f"{'layout begun elsewhere':<34} kills {kills:>3}  children left after 2 s: {left}", flush=True)


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie that nobody has fetched."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    main()
