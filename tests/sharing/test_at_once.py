"""One model and one coder under many threads: each result is the sequential one, and nothing is left on either of them."""

import importlib.util
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.darkmatter.downstream import reconstruct
from workbench.errors import InputError
from workbench.keeping import Setting, Turns, lock_of, using
from workbench.sources.passes import altered, model_sha256, private

_spec = importlib.util.spec_from_file_location("at_once", Path(__file__).with_name("at_once.py"))
at_once = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(at_once)

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def tokens():
    from workbench.sources.tokens import Tokens

    ids = np.random.default_rng(0).integers(3, 300, size=(24, 32))
    ids[:, 0] = 0
    return Tokens.from_ids(ids, bos_id=0, pad_id=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
def test_every_result_is_the_sequential_one(llama, tokens, tmp_path):
    coders = at_once.coders_of(32, HOOK)
    work = at_once.jobs(llama, coders, tokens, HOOK, tmp_path)
    counts = at_once.at_once(work, seconds=8)
    assert {name: dict(count) for name, count in counts.items() if count["wrong"] or count["errors"]} == {}
    assert all(count["calls"] >= 2 for count in counts.values())
    assert altered(llama) == []
    assert all(parameter.requires_grad for parameter in llama.parameters())


def test_a_pass_of_another_thread_does_not_see_the_hooks_of_this_one(llama, tokens):
    """Not even one that asks nobody: somebody's own `model(ids)` while a harvest stands in the middle of its pass."""
    from workbench.activations.capture import capture

    ids = torch.from_numpy(tokens.ids[:2].astype(np.int64))
    with torch.inference_mode():
        plain = llama(ids).clone()
    found = []

    def take(name, tensor):
        thread = threading.Thread(target=lambda: found.append(llama(ids)))
        thread.start()
        thread.join(30)

    with torch.inference_mode():
        capture(llama, [HOOK])(ids, None, take)
    torch.testing.assert_close(found[0].detach(), plain)


def test_turns_go_by_the_order_of_asking_and_may_be_nested():
    turns, order, ready = Turns(), [], []

    def ask(name):
        ready.append(name)
        with turns, turns:
            order.append(name)

    threads = []
    with turns:
        for name in range(5):
            threads.append(threading.Thread(target=ask, args=(name,)))
            threads[-1].start()
            while len(ready) <= name:
                time.sleep(0.001)
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_a_waiting_slider_gets_its_turn_after_one_batch(llama):
    """Between two batches of one thread the other one comes first, although the first asks again at once."""
    seen, stop = [], threading.Event()

    def harvest():
        while not stop.is_set():
            with using(llama):
                seen.append("batch")
                time.sleep(0.01)

    thread = threading.Thread(target=harvest)
    thread.start()
    while not seen:
        time.sleep(0.001)
    waited = []
    for _ in range(10):
        before = len(seen)
        with using(llama):
            waited.append(len(seen) - before)
    stop.set()
    thread.join()
    assert max(waited) <= 2


def test_a_bridge_and_its_model_share_a_lock(llama):
    assert lock_of(llama) is lock_of(llama.original_model)
    assert lock_of([]) is lock_of({})  # what cannot be remembered shares one


def test_private_views_share_tensors_and_hooks_and_keep_their_own_state():
    coder = at_once.coders_of(16, HOOK)["rescaled"]
    x = torch.randn(5, 16)
    view, other = private(coder), private(coder)
    codes = view.encode(x)
    other.encode(3 * x)
    torch.testing.assert_close(view.decode(codes), coder.decode(coder.encode(x)))
    assert view.W_dec is coder.W_dec
    left = {name: value for name, value in vars(coder).items() if name not in ("x_norm_coeff",)}  # what the coder's own call leaves
    assert reconstruct(coder, x.numpy()).shape == x.shape
    assert vars(coder) == left
    coder.run_time_activation_norm_fn_in = lambda x: 2 * x  # somebody's own is kept, and told of
    torch.testing.assert_close(private(coder).encode(x), coder.encode(x))
    assert altered(coder)
    coder._setup_activation_normalization()
    assert altered(coder) == []
    calls = []
    coder.hook_sae_acts_post.add_hook(lambda acts, hook: calls.append(1))
    view.encode(x)
    assert calls == [1]
    assert altered(coder)


def test_a_model_with_somebodys_hooks_is_refused_and_harvested_on_purpose(llama, tokens, tmp_path):
    from workbench.activations import harvest
    from workbench.errors import MismatchError

    plain = harvest(llama, tokens, HOOK, store=tmp_path / "plain", progress=False).read(HOOK)
    for hook in (lambda: llama.add_hook("blocks.0.hook_resid_post", lambda x, hook: torch.zeros_like(x)),
                 lambda: llama.original_model.model.layers[0].register_forward_hook(lambda module, args, out: out)):
        handle = hook()
        try:
            with pytest.raises(InputError, match="hooked=True"):
                harvest(llama, tokens, HOOK, store=tmp_path / "zeroed", progress=False)
        finally:
            llama.reset_hooks() if handle is None else handle.remove()
    llama.add_hook("blocks.0.hook_resid_post", lambda x, hook: torch.zeros_like(x))
    try:
        with pytest.raises(InputError, match="store="):
            harvest(llama, tokens, HOOK, hooked=True, progress=False)
        arguments = {"store": tmp_path / "zeroed", "hooked": True, "progress": False}
        zeroed = harvest(llama, tokens, HOOK, **arguments).read(HOOK)
        assert np.abs(zeroed - plain).max() > 0.1
        with pytest.raises(MismatchError, match="cannot be resumed"):  # nothing tells these hooks from others
            harvest(llama, tokens, HOOK, **arguments)
        np.testing.assert_array_equal(harvest(llama, tokens, HOOK, resume=False, **arguments).read(HOOK), zeroed)
    finally:
        llama.reset_hooks()
    with pytest.raises(MismatchError, match="hooked"):
        harvest(llama, tokens, HOOK, store=tmp_path / "zeroed", progress=False)


def test_a_setting_of_the_process_is_put_back_by_the_last_of_several():
    value = ["as it was"]

    def change():
        before, value[0] = value[0], "changed"
        return lambda: value.__setitem__(0, before)

    setting = Setting(change)
    first, second = setting(), setting()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the one that began first ends first
    assert value == ["changed"]
    second.__exit__(None, None, None)
    assert value == ["as it was"]


def test_models_load_beside_each_other(tiny_llama, tiny_gpt2):
    """transformers changes torch's default type for the whole process while it loads."""
    import workbench as wb

    expected = {str(folder): model_sha256(wb.load_model(str(folder), device="cpu", dtype="float16")) for folder in (tiny_llama, tiny_gpt2)}
    found = []
    threads = [threading.Thread(target=lambda folder=folder: found.append(
        model_sha256(wb.load_model(folder, device="cpu", dtype="float16")) == expected[folder])) for folder in [*expected] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6
    assert torch.get_default_dtype() == torch.float32


def test_autocast_of_the_caller_changes_nothing(llama, tokens, tmp_path):
    from workbench.activations import encode, harvest

    plain = harvest(llama, tokens, HOOK, store=tmp_path / "plain", progress=False)
    coder = at_once.coders_of(32, HOOK)["topk"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = harvest(llama, tokens, HOOK, store=tmp_path / "cast", progress=False)
        codes = encode(plain, HOOK, coder, progress=False)
    np.testing.assert_array_equal(cast.read(HOOK), plain.read(HOOK))
    assert (codes.csr != encode(plain, HOOK, coder, progress=False).csr).nnz == 0


def test_what_is_swapped_inside_a_model_is_noticed(llama):
    inner = llama.original_model
    before = model_sha256(llama)
    norm = next(module for module in inner.modules() if hasattr(module, "variance_epsilon"))
    epsilon, norm.variance_epsilon = norm.variance_epsilon, 0.5
    assert model_sha256(llama) != before
    norm.variance_epsilon = epsilon
    mlp = next(module for module in inner.modules() if "act_fn" in module._modules)
    act, mlp.act_fn = mlp.act_fn, torch.nn.Tanh()
    assert model_sha256(llama) != before
    mlp.act_fn = act
    assert model_sha256(llama) == before
    vars(mlp)["forward"] = torch.zeros_like
    assert altered(llama)
    del vars(mlp)["forward"]
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
    assert altered(llama)
    handle.remove()
    assert altered(llama) == []
