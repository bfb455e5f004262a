"""Many threads on one model and one coder: every result is compared with the sequential one.

Run by hand: `python tests/sharing/at_once.py [--seconds 60]`, on the embedded model. `test_at_once.py` does a few seconds with a tiny one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import tempfile
import threading
import time
from pathlib import Path

import numpy as np


def jobs(model, coders, tokens, hook, folder: Path) -> dict:
    """Name to a function that gives arrays; every call does the whole work again."""
    import torch

    import workbench as wb
    from workbench.circuits.running import token_ids
    from workbench.circuits.steering import steer
    from workbench.darkmatter.downstream import reconstruct, token_loss
    from workbench.explorers import SteeringPanel

    number = itertools.count()
    prompt = tokens.ids[0, :8]
    store = wb.harvest(model, tokens, hook, store=folder / "store", progress=False)
    x = store.read(hook)[tokens.keep.ravel()]
    topk = coders["topk"]
    direction = topk.W_dec[3].detach()
    panel = SteeringPanel(model, topk, latent=1, prompt="def add(", n_new=2)

    def harvested():
        made = wb.harvest(model, tokens, hook, store=folder / f"h{next(number)}", batch_size=4, progress=False)
        return {"rows": made.read(hook)}

    def slid():
        panel.set_alpha(1.5)
        panel.set_alpha(3.0)
        return {"steered": panel.result.steered, "clean": panel.result.clean}

    def checked():
        found = wb.preflight(model, topk, tokens.select(slice(0, 4)))
        return {"numbers": np.array([found.explained_variance, found.l0, found.ce_sae, found.ce_original])}

    def gradients():
        from workbench.circuits import running

        kept: dict = {}
        with torch.enable_grad():
            logits = running.forward(model, token_ids(model, tokens.ids[:3]), [running.rooted(model),
                                                                              *running.catch_heads(model, kept, gradients=True)])
            logits[:, -1].logsumexp(-1).sum().backward()
        return {f"layer {layer}": z.grad.numpy() for layer, z in kept.items()}

    def steered():
        return {"steered": steer(model, direction, hook=hook, prompt=prompt, alpha=4.0, n_new=3).steered}

    found = {"harvest": harvested, "steer": steered, "slider": slid, "preflight": checked, "gradients": gradients,
             "token loss": lambda: {"loss": np.nan_to_num(token_loss(model, tokens.select(slice(0, 4))))}}
    for name, coder in coders.items():
        def own(coder=coder):
            with torch.inference_mode():
                return {"codes": coder.encode(torch.from_numpy(x[:64])).numpy()}

        def encoded(coder=coder):
            return {"codes": wb.encode(store, hook, coder, batch_size=16, progress=False).csr.toarray()}

        def rebuilt(coder=coder):
            return {"x_hat": reconstruct(coder, x, batch_size=32)}

        found |= {f"encode {name}": encoded, f"the coder's own encode, {name}": own, f"reconstruct {name}": rebuilt}
    return found


def differing(one: dict, other: dict) -> int:
    """Rows that differ by more than the rounding of sums in another order."""
    wrong = 0
    for name, expected in one.items():
        got, size = other[name], np.abs(expected).max() or 1.0
        assert got.shape == expected.shape
        apart = np.abs(got - expected) > 1e-4 * np.abs(expected) + 1e-4 * size
        wrong += int(apart.reshape(len(apart), -1).any(axis=1).sum())
    return wrong


def at_once(work: dict, seconds: float) -> dict[str, tuple[int, int, int]]:
    """Each job in a thread of its own, again and again: name to (calls, calls with wrong rows, errors)."""
    alone = {name: job() for name, job in work.items()}
    counts = {name: collections.Counter() for name in work}
    until = time.monotonic() + seconds

    def loop(name: str) -> None:
        while time.monotonic() < until:
            counts[name]["calls"] += 1
            try:
                counts[name]["wrong"] += differing(alone[name], work[name]()) > 0
            except Exception as error:
                counts[name]["errors"] += 1
                counts[name][f"{type(error).__name__}: {str(error)[:100]}"] += 1

    threads = [threading.Thread(target=loop, args=(name,)) for name in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def coders_of(d: int, hook: str) -> dict:
    """A TopK SAE, and a ReLU SAE that rescales its input and keeps the factor on itself."""
    import sae_lens
    import torch
    from sae_lens.saes.sae import SAEMetadata

    found = {}
    for name, kind, more in (("topk", "TopKSAE", {"k": 8}), ("rescaled", "StandardSAE", {"normalize_activations": "constant_norm_rescale"}),
                             ("layer norm", "StandardSAE", {"normalize_activations": "layer_norm"})):
        torch.manual_seed(1)
        coder = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(
            d_in=d, d_sae=4 * d, metadata=SAEMetadata(hook_name=hook, model_name=None), **more))
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.copy_(torch.randn_like(parameter) / d**0.5)
        found[name] = coder
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    import workbench as wb

    hook = "blocks.2.hook_resid_post"
    model = wb.load_model("pylm-4l", device="cpu")
    coders = coders_of(256, hook) | {"topk": wb.load_sae("pylm-4l/l2-topk32-w1024-s0", device="cpu")}
    tokens = wb.corpus("python-source", tokenizer=model.tokenizer, n_tokens=2_048, context=128)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        counts = at_once(jobs(model, coders, tokens, hook, Path(folder)), options.seconds)
        print(f"{'job':<40} calls  wrong  errors")
        for name, count in counts.items():
            print(f"{name:<40} {count['calls']:>5}  {count['wrong']:>5}  {count['errors']:>6}  "
                  + "; ".join(key for key in count if key not in ("calls", "wrong", "errors")))


if __name__ == "__main__":
    main()
