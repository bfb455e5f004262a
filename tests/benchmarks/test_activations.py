"""What do harvesting and encoding cost over the arithmetic they cannot avoid, and does their memory grow with the text?

Run by hand: `python -m pytest tests/benchmarks/test_activations.py -s`, or `python tests/benchmarks/test_activations.py`.
The model is the embedded `pylm-4l`, or the folder in `WORKBENCH_BENCHMARK_MODEL`, or, where neither is there, a random Llama of the
same size. Both sides of a ratio alternate in one process, and the ratio is the median of those of the pairs: the speed of these
machines changes within a minute, and what is measured one right after the other has it in common.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

CONTEXT, LAYER = 256, 2
HOOK = f"blocks.{LAYER}.hook_resid_post"
GATES = {"harvest": 1.2, "encode": 1.5}


def model_folder(folder: Path) -> Path:
    """The embedded model, the one of the environment, or a random one of the same shape, written to `folder`."""
    import workbench

    if os.environ.get("WORKBENCH_BENCHMARK_MODEL"):
        return Path(os.environ["WORKBENCH_BENCHMARK_MODEL"])
    embedded = Path(workbench.__file__).parents[1] / "data" / "zoo" / "pylm-4l"
    if (embedded / "config.json").is_file():
        return embedded
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, initializer_range=0.05)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<bos>", pad_token="<pad>").save_pretrained(folder)
    return folder


def bridge(folder: Path):
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)


def random_tokens(n_tokens: int):
    from workbench.sources.tokens import Tokens

    ids = np.random.default_rng(0).integers(3, 4096, size=(-(-n_tokens // CONTEXT), CONTEXT))
    ids[:, 0] = 0
    return Tokens.from_ids(ids, bos_id=0)


def random_sae(width: int = 4096, k: int = 32, d: int = 256):
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=d, d_sae=width, k=k))
    with torch.no_grad():
        sae.W_enc.copy_(torch.nn.functional.normalize(torch.randn(d, width), dim=0))
    sae.cfg.metadata.hook_name = HOOK
    return sae


def alternate(ours, bare, repeats: int) -> dict[str, float]:
    """Median wall time of each, taken in turns, and median ratio of a pair; the ratio of processor time too."""
    wall, cpu = {"ours": [], "bare": []}, {"ours": [], "bare": []}
    bare(), ours()
    for _ in range(repeats):
        for name, function in (("bare", bare), ("ours", ours)):
            start, cpu_start = time.perf_counter(), time.process_time()
            function()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    ratios = np.divide(wall["ours"], wall["bare"])
    return {"ours": float(np.median(wall["ours"])), "bare": float(np.median(wall["bare"])), "ratio": float(np.median(ratios)),
            "lowest": float(ratios.min()), "highest": float(ratios.max()),
            "cpu_ratio": float(np.median(np.divide(cpu["ours"], cpu["bare"])))}


def report(what: str, result: dict[str, float], against: str, size: str) -> dict[str, float]:
    print(f"{what} {result['ours']:.2f} s / {against} {result['bare']:.2f} s = {result['ratio']:.2f} "
          f"({result['lowest']:.2f} to {result['highest']:.2f}; processor time {result['cpu_ratio']:.2f}; {size})", flush=True)
    return result


def measure_harvest(n_tokens: int = 131_072, batch_size: int = 32, repeats: int = 5) -> dict[str, float]:
    """Harvest over the bare Hugging Face forward (its default attention, no hooks) of the same batches through the same layers."""
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.activations import harvest

    with tempfile.TemporaryDirectory() as scratch:
        folder = model_folder(Path(scratch) / "model")
        model, tokens = bridge(folder), random_tokens(n_tokens)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        plain.model.layers = plain.model.layers[: LAYER + 1]
        plain.model.norm = torch.nn.Identity()
        batches = torch.from_numpy(tokens.ids).long().split(batch_size)
        runs = iter(range(1_000))

        def bare() -> None:
            with torch.inference_mode():
                for batch in batches:
                    plain.model(batch, use_cache=False)

        def ours() -> None:
            harvest(model, tokens, HOOK, store=Path(scratch) / f"store{next(runs)}", batch_size=batch_size, progress=False)

        return report("harvest", alternate(ours, bare, repeats), "bare Hugging Face forward", f"{n_tokens:,} tokens")


def measure_encode(n_tokens: int = 131_072, width: int = 4096, repeats: int = 7) -> dict[str, float]:
    """Encode (reading, encoding, sparse codes) over x @ W_enc of the same rows in the same batches."""
    import torch

    from workbench.activations import encode, harvest

    with tempfile.TemporaryDirectory() as scratch:
        model = bridge(model_folder(Path(scratch) / "model"))
        store = harvest(model, random_tokens(n_tokens), HOOK, store=Path(scratch) / "s", progress=False)
        sae = random_sae(width, d=store.widths[HOOK])
        x, weight = torch.from_numpy(store.read(HOOK)), sae.W_enc.detach()

        def bare() -> None:
            with torch.inference_mode():
                for batch in x.split(1_024):
                    batch @ weight

        def ours() -> None:
            encode(store, HOOK, sae, progress=False)

        return report("encode", alternate(ours, bare, repeats), "x @ W_enc", f"{n_tokens:,} tokens, {width:,} latents")


def measure_memory(sizes: tuple[int, ...] = (200_000, 2_000_000)) -> dict[str, list[float]]:
    """Peak resident MiB of harvesting, and of encoding to disk and counting, for texts of these sizes; each in a process of its own."""
    peaks: dict[str, list[float]] = {"harvest": [], "encode": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(model_folder(Path(scratch) / "model"))
        for n_tokens in sizes:
            for step in peaks:
                command = [sys.executable, __file__, step, folder, str(Path(scratch) / f"store{n_tokens}"), str(n_tokens)]
                peaks[step].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
    for step, values in peaks.items():
        print(f"{step}: peak memory {', '.join(f'{value:,.0f} MiB at {n:,} tokens' for value, n in zip(values, sizes, strict=True))}")
    return peaks


def one_step(step: str, folder: str, store: str, n_tokens: int) -> float:
    """Peak resident MiB of this process after one step. Layer 0 only, and few latents, as the size of the text is what is measured."""
    from workbench.activations import ActivationStore, encode, harvest

    hook = "blocks.0.hook_resid_pre"
    if step == "harvest":
        harvest(bridge(Path(folder)), random_tokens(n_tokens), hook, store=store, progress=False)
    else:
        sae = random_sae(512)
        sae.cfg.metadata.hook_name = hook
        codes = encode(ActivationStore.open(store), hook, sae, path=store + "-codes", progress=False)
        assert codes.frequency.sum() > 0
    # Not ru_maxrss: across fork and exec it keeps the peak of the process that started this one.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def test_harvest_costs_little_more_than_the_forward_pass():
    assert measure_harvest()["ratio"] <= GATES["harvest"]


def test_encode_costs_little_more_than_its_matrix_product():
    assert measure_encode()["ratio"] <= GATES["encode"]


def test_memory_does_not_grow_with_the_text():
    # The text itself (ids, flags, sources; of the store, and again of the codes) stays in memory: up to 50 bytes a token, 90 MiB of the
    # 2 GB that are streamed here. Growth with the activations would be 1,700 MiB.
    for small, large in measure_memory().values():
        assert large - small < 150


@pytest.mark.parametrize("step", ["harvest", "encode"])
def test_seconds(benchmark, step, tmp_path):
    """Absolute times for pytest-benchmark's table: 8,192 tokens."""
    from workbench.activations import encode, harvest

    model, tokens = bridge(model_folder(tmp_path / "model")), random_tokens(8_192)
    runs = iter(range(1_000))
    if step == "harvest":
        benchmark.pedantic(lambda: harvest(model, tokens, HOOK, store=tmp_path / str(next(runs)), progress=False), rounds=3)
    else:
        store, sae = harvest(model, tokens, HOOK, store=tmp_path / "s", progress=False), random_sae()
        benchmark.pedantic(lambda: encode(store, HOOK, sae, progress=False), rounds=3, warmup_rounds=1)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        print(one_step(*sys.argv[1:4], int(sys.argv[4])))
    else:
        measure_harvest(), measure_encode(), measure_memory()
