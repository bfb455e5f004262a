"""The steering panel: alpha 0 changes nothing, every control steers anew, scores stand beside their nulls, states come back."""

import numpy as np
import pytest

from workbench.errors import InputError, MismatchError
from workbench.explorers import SteeringPanel


@pytest.fixture
def panel(llama, sae, codes):
    return SteeringPanel(llama, sae, codes=codes, latent=int(np.flatnonzero(codes.alive)[0]), prompt="def add", n_new=4)


def control(explorer, name):
    return explorer._controls[name][0]


def test_alpha_zero_changes_nothing(panel):
    assert panel.result.kl < 1e-9  # two passes of one model may differ in the last bits of float32
    np.testing.assert_array_equal(panel.result.clean_continuation, panel.result.steered_continuation)
    np.testing.assert_allclose(panel.result.clean, panel.result.steered, rtol=1e-5)


def test_a_large_alpha_changes_bars_and_texts(panel):
    control(panel, "alpha").value = control(panel, "alpha").max
    assert panel.result.alpha == control(panel, "alpha").max
    assert panel.result.kl > 0.01
    without, steered = panel._views["bars"].data
    changes = panel.result.changes(10)
    np.testing.assert_allclose(without.x, changes["clean"])
    np.testing.assert_allclose(steered.x, changes["steered"])
    assert "With α" in panel._panes["texts"].value
    assert panel.errors == []


@pytest.mark.parametrize(
    ("name", "method", "value"),
    [("latent", "select", 7), ("hook", "set_hook", "blocks.0.hook_resid_post"), ("alpha", "set_alpha", 2.5), ("n_new", "set_n_new", 6),
     ("positions", "set_positions", "last"), ("prompt", "set_prompt", "class Node"), ("temperature", "set_temperature", 0.0),
     ("seed", "set_seed", 3)],
)  # fmt: skip
def test_every_control_by_method_and_by_widget(panel, llama, sae, codes, name, method, value):
    panel.set_alpha(2.0)
    before = panel.result
    getattr(panel, method)(value)
    by_method = panel.result
    assert by_method is not before
    assert panel.state()[name] == value
    other = SteeringPanel(llama, sae, codes=codes, latent=int(np.flatnonzero(codes.alive)[0]), prompt="def add", n_new=4, alpha=2.0)
    control(other, name).value = value
    np.testing.assert_array_equal(other.result.steered_continuation, by_method.steered_continuation)
    np.testing.assert_allclose(other.result.steered, by_method.steered)
    assert other.errors == []
    assert len(by_method.clean_continuation) == (6 if name == "n_new" else 4)


def test_refusals_show_in_words(panel):
    control(panel, "prompt").value = "x" * 500
    assert "at most the 64 that the model reads" in panel.message
    with pytest.raises(InputError, match="latent=64"):
        panel.select(64)


def test_scores_show_beside_their_nulls(panel, llama, sae, codes):
    assert panel.scores is None
    panel._buttons["score"].click()
    assert panel.errors == []
    scores = panel.scores
    assert 0 <= scores.output_score[0] <= 1
    assert f"{scores.output_score[0]:.3g}" in panel._panes["scores"].value
    assert f"{scores.output_null.mean():.3g}" in panel._panes["scores"].value
    panel.select(9)
    assert panel.scores is None
    bare = SteeringPanel(llama, sae, n_new=1)
    bare._buttons["score"].click()
    assert "pass the SAE's codes" in bare.message


def test_alpha_goes_to_ten_times_the_largest_activation(panel, codes):
    latent = int(np.argmax(codes.max_activation))
    panel.select(latent)
    assert control(panel, "alpha").max == np.ceil(10 * codes.max_activation[latent])
    panel.set_alpha(control(panel, "alpha").max)
    smallest = int(np.argmin(np.where(codes.alive, codes.max_activation, np.inf)))
    panel.select(smallest)
    assert control(panel, "alpha").value <= np.ceil(10 * codes.max_activation[smallest])


def test_state_and_back_and_static_twin(panel, llama, sae, codes):
    panel.set(latent=3, alpha=1.5, prompt="for index", temperature=0.5, seed=4, positions="last")
    again = SteeringPanel.from_state(panel.state(), llama, sae, codes=codes, n_new=4)
    assert again.state() == panel.state()
    np.testing.assert_array_equal(again.result.steered_continuation, panel.result.steered_continuation)
    assert [bar.name for bar in again.figure().data] == [bar.name for bar in panel._views["bars"].data]


def test_sampling_in_the_background_can_be_cancelled(panel):
    panel.background = True
    before = panel.result
    panel.set_alpha(1.0)
    panel.wait(60)
    assert panel.result is not before
    assert panel.result.alpha == 1.0
    assert panel.message == ""
    kept = panel.result
    token_step = type(panel._progress).advance

    def cancel_first(self, token, n):
        token_step(self, token, n)
        panel.cancel()

    type(panel._progress).advance = cancel_first
    try:
        panel.set_alpha(2.0)
        panel.wait(60)
    finally:
        type(panel._progress).advance = token_step
    assert panel.result is kept
    assert panel.message == "Sampling: cancelled"


def test_other_saes_and_codes_are_refused(llama, sae, codes):
    import copy

    elsewhere = copy.deepcopy(sae)
    elsewhere.cfg.metadata.hook_name = "blocks.9.hook_resid_post"
    with pytest.raises(MismatchError, match=r"blocks\.9"):
        SteeringPanel(llama, elsewhere)

    class Narrow:
        n_latents = 3

    with pytest.raises(InputError, match="codes of 3 latents"):
        SteeringPanel(llama, sae, codes=Narrow())
