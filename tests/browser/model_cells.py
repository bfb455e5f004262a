"""The cells of a notebook with the explorers that run a model; MODEL and SAE are set in a cell above; read as text by the tests."""

# %% setup
import numpy as np
import pandas as pd
import torch
from IPython.display import display

import workbench as wb
from workbench import explorers
from workbench.circuits.edges import EdgeScores
from workbench.circuits.survey import MethodComparison
from workbench.circuits.tasks import Task

rng = np.random.default_rng(0)
model, sae, other = wb.load_model(MODEL), wb.load_sae(SAE), wb.load_sae(SAE)  # noqa: F821
order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
other.W_dec.data = torch.nn.functional.normalize((sae.W_dec + 0.05 * torch.randn(64, 32))[order].detach(), dim=1)
tokens = wb.corpus("python-source", tokenizer=model.tokenizer, n_tokens=4_000, context=64)

# %% circuits: made-up scores of the tiny model's 2 x 4 heads, and random prompts
truth = np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool)
scores = {name: rng.random((2, 4)).round(2) + 0.5 * truth for name in ("EAP", "probe")}
tables = {name: MethodComparison(table=pd.DataFrame({"method": list(scores), "task": name}), scores=scores, truth=truth, codes=None)
          for name in ("ioi", "induction")}  # fmt: skip
ids = rng.integers(3, 300, (2, 3, 9))
ids[:, :, 0] = 0
prompts = Task(name="ioi", positive=ids[0], negative=ids[1], last=np.array([8, 8, 8]), answer=ids[0][:, 1], wrong=ids[0][:, 2],
               group=np.array(["a"] * 3), pad_id=2, template=np.zeros(3, int), negative_kind="random")  # fmt: skip
flow = np.triu(rng.standard_normal((8, 8)), 4)
edges = EdgeScores(scores=flow, sources=np.array([]), destinations=np.array([]), pair=flow, to_output=rng.standard_normal(8),
                   node=np.abs(flow).max(1).reshape(2, 4), p_value=np.ones_like(flow), behaviour=2.0, method="eap")  # fmt: skip
circuits = explorers.CircuitExplorer(tables, tasks={"ioi": prompts}, model=model, edges={"ioi": edges})
display(circuits)

# %% steering
codes = wb.encode(wb.harvest(model, tokens, [sae.cfg.metadata.hook_name]), sae.cfg.metadata.hook_name, sae)
steering = explorers.SteeringPanel(model, sae, codes=codes, latent=3, prompt="for index in", n_new=5)
display(steering)

# %% workbench
workbench = explorers.Workbench(model, {"seed 0": sae, "seed 1": other}, tokens=tokens, n_lobes=2, tasks=["induction"], n_prompts=4)
display(workbench)
