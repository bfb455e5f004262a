"""Harvested activations are the model's own, survive kills and bad disks, and refuse what does not belong to them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.activations import ActivationStore, harvest
from workbench.activations.capture import activations_of, fused_attention, fused_attention_agrees
from workbench.errors import InputError, IntegrityError, MismatchError, NotFoundError, StorageError, WorkbenchError
from workbench.keeping import exclusive, unseal
from workbench.sources.passes import model_sha256

HOOK = "blocks.1.hook_resid_post"
# float32 activations of size about 1 through two layers: fused and stepwise attention, and other batches, round differently by about 1e-6.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_hook_is_what_run_with_cache_gives(family, request, make_tokens, tmp_path):
    model, tokens = request.getfixturevalue(family), make_tokens(padded=False)
    names = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z")
    hooks = ["hook_embed"] + [f"blocks.{layer}.{name}" for layer in (0, 1) for name in names]
    store = harvest(model, tokens, hooks, store=tmp_path / family, batch_size=4, progress=False)
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.from_numpy(tokens.ids).long(), names_filter=hooks)
    assert store.hooks == tuple(hooks)
    for hook in hooks:
        expected = cache[hook].reshape(tokens.n_tokens, -1).numpy()
        assert store.read(hook).dtype == np.float32
        np.testing.assert_allclose(store.read(hook), expected, **CLOSE, err_msg=hook)


def test_residual_hooks_use_fused_attention_and_hooks_inside_attention_do_not(llama, tokens):
    ids = torch.from_numpy(tokens.ids[1:2]).long()
    with torch.inference_mode():
        assert fused_attention_agrees(llama, activations_of(llama, [HOOK, "blocks.0.attn.hook_z"], ids, None), ids, None)
        assert not fused_attention_agrees(llama, activations_of(llama, ["blocks.0.attn.hook_out"], ids, None), ids, None)


def test_fused_attention_that_computes_something_else_is_not_used(llama, tokens, monkeypatch):
    """A model whose own attention differs from the fused kernel (here: scores half as large) must not be harvested through it."""
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda query, *args, **kw: kernel(0.5 * query, *args, **kw))
    ids = torch.from_numpy(tokens.ids[1:2]).long()
    with torch.inference_mode():
        assert not fused_attention_agrees(llama, activations_of(llama, [HOOK], ids, None), ids, None)


def test_fused_attention_leaves_the_model_as_it_was(llama, tokens):
    before = [id(module) for module in llama.modules()]
    with fused_attention(llama) as possible:
        assert possible
        assert [id(module) for module in llama.modules()] != before
    assert [id(module) for module in llama.modules()] == before
    assert llama.original_model.config._attn_implementation == "eager"
    handle = llama.blocks[0].attn.hook_pattern.add_hook(lambda tensor, hook: tensor)
    with fused_attention(llama) as possible:
        assert not possible, "a user's hook inside attention must go on working"
    llama.reset_hooks()
    assert handle is None
    assert not any(llama.hook_dict[name].has_hooks() for name in llama.hook_dict)


def test_padding_is_masked(llama, make_tokens, tmp_path):
    """Left padding changes what real tokens see unless it is masked: a left-padded context gives the activations of the bare one."""
    bare = make_tokens(3, 12, padded=False)
    ids = np.full((3, 16), 2)
    ids[:, 4:] = bare.ids
    keep = np.zeros(ids.shape, dtype=bool)
    keep[:, 5:] = True
    from workbench.sources.tokens import Tokens

    padded = Tokens.from_ids(ids, bos_id=0, pad_id=2)
    padded = Tokens(**{name: getattr(padded, name) for name in ("ids", "source", "document", "vocabulary", "bos_id", "pad_id")}, keep=keep)
    store = harvest(llama, padded, HOOK, store=tmp_path / "padded", progress=False)
    expected = harvest(llama, bare, HOOK, store=tmp_path / "bare", progress=False).read(HOOK).reshape(3, 12, -1)
    np.testing.assert_allclose(store.read(HOOK).reshape(3, 16, -1)[:, 4:], expected, **CLOSE)


def test_it_stops_after_the_last_hook_needed(llama, tokens, tmp_path):
    ran = []
    handles = [block.register_forward_pre_hook(lambda module, args, i=i: ran.append(i)) for i, block in enumerate(llama.blocks)]
    handles.append(llama.unembed.register_forward_pre_hook(lambda module, args: ran.append("unembed")))
    try:
        harvest(llama, tokens, "blocks.0.hook_resid_post", store=tmp_path / "first", hooked=True, progress=False)
        assert set(ran) == {0}
        harvest(llama, tokens, HOOK, store=tmp_path / "last", hooked=True, progress=False)
        assert set(ran) == {0, 1}, "not the unembedding either"
    finally:
        for handle in handles:
            handle.remove()


def test_float16_on_disk_is_read_as_float32(llama, tokens, store, tmp_path):
    half = harvest(llama, tokens, HOOK, store=tmp_path / "half", dtype="float16", progress=False)
    assert half.read(HOOK).dtype == np.float32
    np.testing.assert_allclose(half.read(HOOK), store.read(HOOK), rtol=2**-10, atol=1e-5)  # float16's last place, and rounding
    assert half.read(HOOK).max() != store.read(HOOK).max()


def test_without_a_folder_the_cache_is_used_once(llama, tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    first = harvest(llama, tokens, HOOK, batch_size=4, progress=False)
    assert tmp_path in first.path.parents
    stamp = {path.name: path.stat().st_mtime_ns for path in first.path.glob("shard-*")}
    again = harvest(llama, tokens, HOOK, batch_size=4, progress=False)
    assert again.path == first.path
    assert {path.name: path.stat().st_mtime_ns for path in again.path.glob("shard-*")} == stamp
    assert harvest(llama, tokens, HOOK, batch_size=2, progress=False).path != first.path


KILLED = """
import sys, time
import workbench.activations
inner, folder = sys.modules["workbench.activations.harvest"], sys.argv[2]  # the module; the package's attribute is the function
write = inner.replace_file
def slowly(path, content):
    write(path, content)
    if "shard-00001" in str(path):
        print("ready", flush=True)
        time.sleep(60)
inner.replace_file = slowly
import numpy as np
from transformer_lens.model_bridge import TransformerBridge
from workbench.sources.tokens import Tokens
model = TransformerBridge.boot_transformers(sys.argv[1], device="cpu")
inner.harvest(model, Tokens.load(sys.argv[3]), "blocks.1.hook_resid_post", store=folder, batch_size=2, shard_tokens=32, progress=False)
"""


@pytest.mark.slow
def test_a_killed_harvest_resumes_to_the_same_bytes(llama, tiny_llama, tokens, tmp_path):
    """kill -9 after the second shard is on disk and before the manifest knows it; a third is tampered with, leftovers lie around."""
    tokens.save(tmp_path / "text")
    whole = harvest(llama, tokens, HOOK, store=tmp_path / "whole", batch_size=2, shard_tokens=32, progress=False)
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, script, str(tiny_llama), str(tmp_path / "killed"), str(tmp_path / "text")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums in another number of threads may round differently
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    killed = tmp_path / "killed"
    manifest = unseal((killed / "manifest.json").read_bytes())
    assert [shard["index"] for shard in manifest["shards"]] == [0]
    assert (killed / "shard-00001.safetensors").exists()
    with pytest.raises(Exception, match="was not finished"):
        ActivationStore.open(killed)
    (killed / ".shard-00002.safetensors.0123456789ab.part").write_bytes(b"half")
    resumed = harvest(llama, tokens, HOOK, store=killed, batch_size=2, shard_tokens=32, progress=False)
    assert files(killed) == files(whole.path)
    np.testing.assert_array_equal(resumed.read(HOOK), whole.read(HOOK))


def test_resuming_recomputes_damaged_shards_only(llama, tokens, tmp_path):
    arguments = {"store": tmp_path / "s", "batch_size": 2, "shard_tokens": 32, "progress": False}
    harvest(llama, tokens, HOOK, **arguments)
    before = files(tmp_path / "s")
    damaged = tmp_path / "s" / "shard-00003.safetensors"
    damaged.write_bytes(before[damaged.name][:-5])
    (tmp_path / "s" / "shard-00001.safetensors").unlink()
    stamp = (tmp_path / "s" / "shard-00000.safetensors").stat().st_mtime_ns
    harvest(llama, tokens, HOOK, **arguments)
    assert files(tmp_path / "s") == before
    assert (tmp_path / "s" / "shard-00000.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(("change", "named"), [
    ({"dtype": "float16"}, "dtype: float32 there, float16 now"), ({"batch_size": 3}, "batch_size"),
    ({"shard_tokens": 128}, "contexts_per_shard"), ({"hooks": "blocks.0.hook_resid_post"}, "hooks"),
    ({"tokens": "other"}, "tokens_sha256"), ({"model": "gpt2"}, "model"),
])
def test_resuming_another_harvest_is_refused_and_names_the_difference(change, named, llama, tokens, make_tokens, tmp_path, request):
    harvest(llama, tokens, HOOK, store=tmp_path / "s", batch_size=2, shard_tokens=64, progress=False)
    before = files(tmp_path / "s")
    change = dict(change)
    model = request.getfixturevalue(change.pop("model", "llama"))
    text = make_tokens(seed=9) if change.pop("tokens", None) else tokens
    arguments = {"hooks": HOOK, "batch_size": 2, "shard_tokens": 64} | change
    with pytest.raises(MismatchError, match=named):
        harvest(model, text, store=tmp_path / "s", progress=False, **arguments)
    assert files(tmp_path / "s") == before
    fresh = harvest(model, text, store=tmp_path / "s", progress=False, resume=False, **arguments)
    ActivationStore.open(tmp_path / "s").verify()
    assert fresh.n_tokens == text.n_tokens


def test_an_open_store_never_gives_rows_of_another_text(llama, tokens, make_tokens, tmp_path):
    """Opened, read, harvested anew with another text, and read again: its own rows or a clear error."""
    arguments = {"store": tmp_path / "s", "batch_size": 2, "shard_tokens": 32, "progress": False}
    harvest(llama, tokens, HOOK, **arguments)
    opened, unread = ActivationStore.open(tmp_path / "s"), ActivationStore.open(tmp_path / "s")
    own = opened.read(HOOK)
    other = harvest(llama, make_tokens(seed=9), HOOK, resume=False, **arguments)
    for store in (opened, unread):
        with pytest.raises(IntegrityError, match="made anew"):
            store.read(HOOK)
        with pytest.raises(IntegrityError, match="made anew"):
            store.loaders(HOOK)[0]()
    assert not np.array_equal(other.read(HOOK), own)
    harvest(llama, tokens, HOOK, resume=False, **arguments)
    np.testing.assert_array_equal(opened.read(HOOK), own)  # its own text is there again, to the last bit


def test_a_replacement_that_fails_leaves_the_old_harvest(llama, tokens, make_tokens, tmp_path, monkeypatch):
    arguments = {"store": tmp_path / "s", "batch_size": 2, "shard_tokens": 32, "progress": False}
    harvest(llama, tokens, HOOK, **arguments)
    before = files(tmp_path / "s")
    module = sys.modules[harvest.__module__]
    monkeypatch.setattr(module, "_compute", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        harvest(llama, make_tokens(seed=9), HOOK, resume=False, **arguments)
    assert files(tmp_path / "s") == before
    monkeypatch.undo()
    harvest(llama, tokens, HOOK, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # nothing of the other one is left


def test_what_is_not_a_harvest_is_never_replaced(llama, sae, tokens, store, tmp_path, monkeypatch):
    """Not the working directory, not a folder with other files in it, not a file."""
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    before = files(folder) | files(tmp_path)
    monkeypatch.chdir(folder)
    from workbench.activations import encode

    codes = encode(store, HOOK, sae, progress=False)
    for place in (".", folder, tmp_path / "file"):
        for write in (lambda place: harvest(llama, tokens, HOOK, store=place, resume=False, progress=False),
                      lambda place: harvest(llama, tokens, HOOK, store=place, progress=False),
                      lambda place: encode(store, HOOK, sae, path=place, progress=False), codes.save):
            with pytest.raises(StorageError, match="To mend it"):
                write(place)
    assert files(folder) | files(tmp_path) == before
    (tmp_path / "link").symlink_to(tmp_path / "target", target_is_directory=True)
    (tmp_path / "target").mkdir()
    harvest(llama, tokens, HOOK, store=tmp_path / "link", progress=False)
    harvest(llama, tokens, HOOK, store=tmp_path / "link", resume=False, progress=False)
    assert (tmp_path / "link").is_symlink()
    assert ActivationStore.open(tmp_path / "target").n_tokens == tokens.n_tokens


def test_a_small_disk_is_refused_with_the_bytes_required(llama, tokens, tmp_path, monkeypatch):
    required = tokens.n_tokens * 32 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, required - 1))
    with pytest.raises(StorageError, match=f"{required:,} bytes"):
        harvest(llama, tokens, HOOK, store=tmp_path / "s", progress=False)
    assert not list((tmp_path / "s").glob("shard-*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, required))
    harvest(llama, tokens, HOOK, store=tmp_path / "s", progress=False)


FULL = """
import resource, signal, sys
from pathlib import Path
from transformer_lens.model_bridge import TransformerBridge
from workbench.activations import harvest
from workbench.errors import StorageError
from workbench.sources.tokens import Tokens
model = TransformerBridge.boot_transformers(sys.argv[1], device="cpu")
text, folder = Tokens.load(sys.argv[3]), Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead of killing the process
resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, resource.RLIM_INFINITY))
try:
    harvest(model, text, "blocks.1.hook_resid_post", store=folder, batch_size=64, progress=False)
except StorageError as error:
    left = sorted(path.name for path in folder.iterdir())
    print("refused", left, str(error)[:40])
try:
    harvest(model, text, "blocks.1.hook_resid_post", store="/proc/sae-workbench", progress=False)
except StorageError as error:
    print("read-only", "may write to" in str(error))
"""


@pytest.mark.slow
def test_a_disk_that_fails_while_writing_leaves_nothing_half_written(tiny_llama, tokens, tmp_path):
    tokens.save(tmp_path / "text")
    assert tokens.n_tokens * 32 * 4 > 16_000 > (tmp_path / "text.npz").stat().st_size, "the limit must hit the shard, not the text"
    script = tmp_path / "run.py"
    script.write_text(FULL)
    command = [sys.executable, script, str(tiny_llama), str(tmp_path / "s"), str(tmp_path / "text")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, read_only = out.stdout.splitlines()
    assert refused.startswith("refused ['manifest.json', 'tokens.json', 'tokens.npz']")
    assert read_only == "read-only True"


def test_nan_is_named_with_hook_context_and_position(llama, make_tokens, tmp_path):
    tokens = make_tokens(padded=False, vocabulary=299)
    tokens.ids[7, 5] = 299
    assert (tokens.ids == 299).sum() == 1
    with torch.no_grad():
        weight = llama.original_model.get_input_embeddings().weight
        kept = weight[299].clone()
        weight[299] = float("nan")
    try:
        with pytest.raises(InputError, match="'hook_embed', context 7, position 5"):
            harvest(llama, tokens, "hook_embed", store=tmp_path / "nan", batch_size=3, progress=False)
        with torch.no_grad():
            weight[299] = 1e6
        with pytest.raises(InputError, match="overflowing float16.*context 7, position 5.*float32"):
            harvest(llama, tokens, "hook_embed", store=tmp_path / "overflow", dtype="float16", progress=False)
        assert np.isfinite(harvest(llama, tokens, "hook_embed", store=tmp_path / "wide", progress=False).read("hook_embed")).all()
    finally:
        with torch.no_grad():
            weight[299] = kept


def test_bad_requests(llama, tokens, make_tokens, tmp_path):
    with pytest.raises(NotFoundError, match=r"blocks.1.hook_resid_post"):
        harvest(llama, tokens, "blocks.1.hook_residual_post", store=tmp_path)
    with pytest.raises(InputError, match="at least one hook"):
        harvest(llama, tokens, [], store=tmp_path)
    with pytest.raises(InputError, match="one vector a token"):
        harvest(llama, tokens, "blocks.0.attn.hook_pattern", store=tmp_path)
    with pytest.raises(InputError, match="vocabulary"):
        harvest(llama, make_tokens(vocabulary=5000), HOOK, store=tmp_path)
    with pytest.raises(InputError, match="window"):
        harvest(llama, make_tokens(2, 65), HOOK, store=tmp_path)
    for bad in ({"dtype": "bfloat16"}, {"batch_size": 0}, {"shard_tokens": 0}):
        with pytest.raises(InputError):
            harvest(llama, tokens, HOOK, store=tmp_path, **bad)
    with pytest.raises(InputError, match="TransformerBridge"):
        harvest(llama.original_model, tokens, HOOK, store=tmp_path)
    assert not list(tmp_path.glob("shard-*"))


def test_an_array_of_ids_is_text_enough(llama, tokens, tmp_path):
    store = harvest(llama, torch.from_numpy(tokens.ids), HOOK, store=tmp_path / "s", progress=False)
    assert store.tokens.bos_id == 0
    assert store.n_tokens == tokens.n_tokens


def test_identity_is_of_weights_not_of_places(llama, gpt2, tiny_llama, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    shutil.copytree(tiny_llama, tmp_path / "copy")
    copy = TransformerBridge.boot_transformers(str(tmp_path / "copy"), device="cpu")
    assert model_sha256(copy) == model_sha256(llama) != model_sha256(gpt2)
    with torch.no_grad():
        next(parameter for name, parameter in copy.original_model.named_parameters() if "1" in name and "up_proj" in name)[0, 0] += 1e-3
    assert model_sha256(copy) != model_sha256(llama)


def test_two_processes_do_not_disturb_each_other(llama, tokens, tmp_path):
    """The second waits at the lock and finds the work done."""
    import threading

    results, arguments = [], {"store": tmp_path / "s", "batch_size": 2, "shard_tokens": 32, "progress": False}
    with exclusive(tmp_path / "s"):
        thread = threading.Thread(target=lambda: results.append(harvest(llama, tokens, HOOK, **arguments)))
        thread.start()
        time.sleep(0.5)
        assert not list((tmp_path / "s").glob("shard-*")), "it must wait for the lock"
    thread.join(30)
    assert len(results) == 1


@pytest.mark.parametrize("change", [{"hooks": None}, {"hooks": [3]}, {"store": 3}, {"store": ""}, {"store": "a\x00b"}, {"store": "n" * 300},
                                    {"batch_size": 2.0}, {"batch_size": True}, {"shard_tokens": "8"}, {"dtype": None}])
def test_arguments_of_another_type_are_one_clear_error(llama, tokens, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkbenchError, match="To mend it"):
        harvest(llama, tokens, **({"hooks": HOOK, "progress": False} | change))
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_found_again_from_another_folder(llama, tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = harvest(llama, tokens, HOOK, store="relative", batch_size=np.int64(2), progress=False)
    opened = ActivationStore.open("relative")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(opened.read(HOOK), made.read(HOOK))
