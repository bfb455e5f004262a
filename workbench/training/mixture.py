"""What do the embedded models read? Rows of corpus text and rows packed with task prompts, each token with a loss weight.

1. Corpus rows are contexts of `corpus("python-source", split="train")`; every token weighs 1. Repeated rows tile a piece of such a context.
2. Prompt rows hold prompts of one task (training split), each followed by its answer; the answer weighs `ANSWER_WEIGHT`.
3. Induction rows repeat a run of random tokens; the first run, which nothing predicts, weighs 0.

A row is fixed by (seed, its number), so training resumes on exactly the rows it would have seen.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from workbench.circuits import tasks

ANSWER_WEIGHT = 6.0
ENDINGS = {"ioi": ".\n", "greater-than": ".\n", "docstring": ': main value\n    """\n'}


@dataclasses.dataclass
class TaskRows:
    """Endless rows (context,) of packed task prompts for one tokenizer."""

    tokenizer: object
    context: int
    seed: int

    def __post_init__(self) -> None:
        self._words = {name: tasks.single_tokens(self.tokenizer, name)[0] for name in tasks.GENERATORS}
        self._endings = {name: self.tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in ENDINGS.items()}
        self._ordinary = np.setdiff1d(np.arange(len(self.tokenizer)), self.tokenizer.all_special_ids)

    def row(self, number: int, name: str | dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (context,) int64 and loss weights (context,) float32 of row `number` of a task, or of one drawn with the given shares."""
        rng = np.random.default_rng([self.seed, number])
        if not isinstance(name, str):
            name = str(rng.choice(list(name), p=list(name.values())))
        ids, weights = self._repeats(rng) if name == "induction" else self._prompts(name, rng)
        missing = self.context - len(ids)
        return (
            np.pad(ids, (0, missing), constant_values=self.tokenizer.pad_token_id).astype(np.int64),
            np.pad(weights, (0, missing)).astype(np.float32),
        )

    def repeated(self, number: int, ids: np.ndarray) -> np.ndarray:
        """A context of text (context,) replaced by BOS and one piece of it, again and again: what copying heads learn from."""
        rng = np.random.default_rng([self.seed, number])
        length = int(rng.integers(12, 110 if self.context >= 220 else self.context // 2))
        start = int(rng.integers(1, self.context - length))
        return np.concatenate([ids[:1], np.tile(ids[start : start + length], self.context // length + 1)])[: self.context]

    def _prompts(self, name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        ids, weights = [self.tokenizer.bos_token_id], [0.0]
        for prompt in tasks.GENERATORS[name](rng, self._words[name], "train"):
            prefix = self.tokenizer(prompt.positive, add_special_tokens=False)["input_ids"]
            answer = self.tokenizer(prompt.answer[rng.integers(len(prompt.answer))], add_special_tokens=False)["input_ids"]
            addition = [*prefix, *answer, *self._endings[name]]
            if len(ids) + len(addition) > self.context:
                return np.array(ids), np.array(weights)
            ids += addition
            weights += [1.0] * len(prefix) + [ANSWER_WEIGHT] + [1.0] * len(self._endings[name])
        raise AssertionError("generators are endless")

    def _repeats(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        length = int(rng.integers(8, 64))
        run = rng.choice(self._ordinary, length, replace=False)
        ids = np.concatenate([[self.tokenizer.bos_token_id], np.tile(run, self.context // length + 1)])[: self.context]
        # One token of a repeated run has to be seen before the next can be known.
        weights = np.where(np.arange(self.context) > length + 1, 1.0, 0.0)
        return ids, weights
