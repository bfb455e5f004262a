"""Which behaviours do we look for circuits of? Prompts with a right and a wrong next token, in matched pairs.

1. The generators of `workbench.circuits.prompts` write a positive text that calls for the behaviour and a negative text, aligned with
   it, that does not.
2. `task` keeps the words that are one token for the given tokenizer, tokenises the pairs and checks that each pair has one length.
3. Prompts are split by a hash of their decisive words, so that nothing in `split="eval"` was ever in `split="train"`, on which the
   embedded models were trained.

Sources: IOI, Wang et al. 2023; greater-than, Hanna et al. 2023; docstring, Heimersheim and Janiak 2023; repeated random tokens,
Olsson et al. 2022; negatives as in O'Neill and Bui 2024 (`methods.md` section 5).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from workbench.arrays import as_tensor
from workbench.circuits.prompts import CENTURIES, GENERATORS, NEGATIVES, UNRELATED, WORD_LISTS, Prompt, held_out
from workbench.errors import InputError, NotFoundError, fail
from workbench.results import Result, provenance

__all__ = ["CENTURIES", "GENERATORS", "NEGATIVES", "WORD_LISTS", "Prompt", "Task", "held_out", "single_tokens", "task"]

SPLITS = ("eval", "train", "held-out-templates")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Task(Result):
    """Matched prompts of one behaviour.

    Attributes
    ----------
    positive, negative : int32 arrays (n, length)
        Token ids, BOS first, padded on the right with `pad_id`; row i of both has the same number of tokens.
    last : int array (n,)
        Position of the last prompt token: the one whose logits predict the answer.
    answer, wrong : int32 arrays (n,) or (n, k)
        Ids of right and wrong next tokens; with several (greater-than) rows are filled up with -1.
    group : str array (n,)
        What prompts share: the order of the names (IOI), the century (greater-than), the length (induction).
    template : int array (n,)
        Number of the prompt's template within those of its split.
    negative_kind : str
        Which kind of negative, see `prompts.NEGATIVES`.
    """

    name: str
    positive: np.ndarray
    negative: np.ndarray
    last: np.ndarray
    answer: np.ndarray
    wrong: np.ndarray
    group: np.ndarray
    pad_id: int
    metric_kind: str = "logit difference"
    template: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=int))
    negative_kind: str = ""

    def take(self, rows) -> Task:
        """The task with some of its prompts: `rows` is a slice, an index array or a boolean mask; all pairs stay pairs."""
        fields = ("positive", "negative", "last", "answer", "wrong", "group", "template")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in fields if len(getattr(self, name))})

    @property
    def keep(self) -> np.ndarray:
        """Bool array (n, length): the positions of a prompt and its negative that are no padding (BOS is one of them)."""
        return np.arange(self.positive.shape[1]) <= self.last[:, None]

    def metric(self, logits) -> np.ndarray:
        """How strongly the behaviour shows, per prompt.

        Parameters
        ----------
        logits : (n, length, V) or (n, V) at the last position

        Returns
        -------
        float array or tensor (n,)
            Logit of the answer minus logit of the wrong token; for greater-than P(later year) − P(year not later). A torch tensor
            (differentiable) for a torch input.
        """
        import torch

        given = torch.is_tensor(logits)
        scores = logits if given else as_tensor(logits, "logits", ndim=(2, 3))
        n = len(self.answer)
        if scores.ndim not in (2, 3) or scores.shape[0] != n or (scores.ndim == 3 and scores.shape[1] != self.positive.shape[1]):
            fail(
                InputError,
                f"logits of shape {tuple(scores.shape)}",
                f"({n}, {self.positive.shape[1]}, V) or ({n}, V)",
                "pass the logits of all prompts",
            )
        if scores.ndim == 3:
            scores = scores[torch.arange(n), torch.as_tensor(self.last, device=scores.device)]
        if self.metric_kind == "probability difference":
            scores = scores.float().softmax(-1)
        value = _gather(scores, self.answer) - _gather(scores, self.wrong)
        return value if given else value.numpy()

    def correct(self, logits) -> np.ndarray:
        """Whether the behaviour is right, per prompt: bool array (n,); the metric is above 0."""
        value = self.metric(logits)
        return (value > 0).cpu().numpy() if hasattr(value, "cpu") else value > 0


def _gather(scores, ids: np.ndarray):
    import torch

    index = torch.as_tensor(ids, device=scores.device).long().reshape(len(ids), -1)
    return (scores.gather(1, index.clamp_min(0)) * (index >= 0)).sum(1)


def task(
    name: str,
    tokenizer,
    *,
    n: int = 250,
    seed: int = 0,
    split: str = "eval",
    length: int = 24,
    negative: str | None = None,
    order: str | None = None,
    template: int | None = None,
) -> Task:
    """Matched prompts of one behaviour, tokenised.

    Parameters
    ----------
    name : "ioi", "greater-than", "docstring" or "induction"
    tokenizer : Hugging Face tokenizer, or a model that carries one
    n : int
        Number of positive prompts, and of negative ones.
    seed : int
    split : "eval", "train" or "held-out-templates"
        The embedded models were trained on `"train"` only; templates of the last kind are in neither of the others.
    length : int
        Induction: number of random tokens before they repeat.
    negative : str, optional
        Kind of negative: `"abc"` (IOI: three different names, the answer among them), `"new-names"` (IOI: three others), `"year"`
        (greater-than: start year 01), `"range"` (greater-than: ends in an earlier century), `"random-random"` (docstring), `"fresh"`
        (induction: nothing repeats), and for every task `"random"` tokens, `"unrelated"` prose and `"copy"` (another positive). The first
        of the task's kinds is the default.
    order : "ABBA" or "BABA", optional
        IOI: only prompts in which the subject comes second, or first; both if not given.
    template : int, optional
        Only prompts of the template with this number.

    Raises
    ------
    NotFoundError
        For an unknown task.
    InputError
        When too few of the words a task needs are single tokens of this tokenizer (the message lists the ones that are not), when pairs
        differ in token length, or for an unknown split, negative, order or template.
    """
    if name not in NEGATIVES:
        fail(NotFoundError, f"no task {name!r}", f"one of {sorted(NEGATIVES)}", "check the spelling")
    negative = negative or NEGATIVES[name][0]
    if n < 1 or split not in SPLITS or negative not in NEGATIVES[name]:
        fail(
            InputError,
            f"n={n}, split={split!r}, negative={negative!r}",
            f"n >= 1, split one of {SPLITS} and negative one of {NEGATIVES[name]}",
            "correct the call",
        )
    tokenizer = getattr(tokenizer, "tokenizer", None) if hasattr(tokenizer, "blocks") else tokenizer
    bos, pad = _special(tokenizer)
    rng = np.random.default_rng(seed)
    if name == "induction":
        return _induction(tokenizer, n, rng, length, bos, pad, seed, split, negative)
    words, refused = single_tokens(tokenizer, name)
    drawn = _chosen(GENERATORS[name](rng, words, split, NEGATIVES[name][0] if negative in ("random", "unrelated", "copy") else negative),
                    order, template)  # fmt: skip
    prompts = [next(drawn) for _ in range(n)]
    positive, negatives = (
        [[bos, *_ids(tokenizer, text)] for text in texts] for texts in zip(*((p.positive, p.negative) for p in prompts), strict=True)
    )
    if negative == "copy":
        negatives = _copies(positive, ([bos, *_ids(tokenizer, prompt.positive)] for prompt in drawn))
    elif negative in ("random", "unrelated"):
        negatives = _easy(tokenizer, np.array([len(row) for row in positive]), negative, bos, np.random.default_rng([seed, 1]))
    uneven = [p.positive for p, a, b in zip(prompts, positive, negatives, strict=True) if len(a) != len(b)]
    if uneven:
        fail(
            InputError,
            f"{len(uneven)} of {n} pairs differ in token length, for example {uneven[0]!r}",
            "pairs of one length",
            "this tokenizer merges across the task's words; choose another tokenizer or task",
        )
    widest = max(map(len, positive))
    return Task(
        name=name,
        positive=_padded(positive, widest, pad),
        negative=_padded(negatives, widest, pad),
        last=np.array([len(row) - 1 for row in positive]),
        answer=_answers(tokenizer, [p.answer for p in prompts]),
        wrong=_answers(tokenizer, [p.wrong for p in prompts]),
        group=np.array([p.group for p in prompts]),
        template=np.array([p.template for p in prompts]),
        pad_id=pad,
        metric_kind="probability difference" if name == "greater-than" else "logit difference",
        negative_kind=negative,
        provenance=provenance(
            {"tokenizer": str(getattr(tokenizer, "name_or_path", ""))},
            {"task": name, "n": n, "split": split, "negative": negative, "not_single_tokens": refused},
            seed=seed,
        ),
    )


_TRIES = 20_000  # far more draws than any order, template or length needs that occurs at all


def _chosen(prompts: Iterator[Prompt], order: str | None, template: int | None) -> Iterator[Prompt]:
    """The prompts of one order and template."""
    misses = 0
    for prompt in prompts:
        if order in (None, prompt.group) and template in (None, prompt.template):
            misses = 0
            yield prompt
        elif (misses := misses + 1) > _TRIES:
            fail(
                InputError,
                f"no prompt has order={order!r} and template={template!r}",
                "order 'ABBA' or 'BABA' (IOI only) and the number of a template of this split",
                "correct the call, or leave them out",
            )


def _copies(positive: list[list[int]], others: Iterator[list[int]]) -> list[list[int]]:
    """For every prompt another one of the same length."""
    waiting: dict[int, list[list[int]]] = {}
    found = []
    for row in positive:
        for _, other in zip(range(_TRIES), others, strict=False) if not waiting.get(len(row)) else ():
            waiting.setdefault(len(other), []).append(other)
            if len(other) == len(row):
                break
        found.append(waiting[len(row)].pop() if waiting.get(len(row)) else [])
    return found


def _easy(tokenizer, lengths: np.ndarray, kind: str, bos: int, rng: np.random.Generator) -> list[list[int]]:
    """Negatives that share nothing with the positives but their length (BOS included): random tokens, or ordinary prose."""
    if kind == "random":
        ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        return [[bos, *rng.choice(ordinary, length - 1).tolist()] for length in lengths]
    sentences = [_ids(tokenizer, f"{text}. ") for text in UNRELATED.rstrip(". ").split(". ")]
    rows = []
    for length, start in zip(lengths, rng.integers(len(sentences), size=len(lengths)), strict=True):
        prose = itertools.chain.from_iterable(sentences[(start + step) % len(sentences)] for step in itertools.count())
        rows.append([bos, *itertools.islice(prose, int(length) - 1)])
    return rows


def single_tokens(tokenizer, name: str) -> tuple[dict[str, list[str]], list[str]]:
    """The task's words that are one token for this tokenizer, and those that are not.

    Words keep the leading space with which they stand in the prompts.
    """
    kept: dict[str, list[str]] = {}
    refused: list[str] = []
    for kind, (candidates, needed) in WORD_LISTS[name].items():
        kept[kind] = []
        for word in candidates:
            (kept[kind] if len(_ids(tokenizer, word)) == 1 else refused).append(word)
        if len(kept[kind]) < needed:
            missing = [w for w in candidates if w not in kept[kind]]
            fail(
                InputError,
                f"only {len(kept[kind])} of {len(candidates)} {kind} of task {name!r} are single tokens; split are {missing}",
                f"at least {needed}",
                "use a model whose tokenizer knows these words, or another task",
            )
    if name == "greater-than":
        whole = [
            year
            for year in kept["years"]
            if any(_ids(tokenizer, f" {c}{year}") != [*_ids(tokenizer, f" {c}"), *_ids(tokenizer, year)] for c in CENTURIES)
        ]
        kept["years"] = [year for year in kept["years"] if year not in whole]
        refused += [f"{year} inside a four-digit year" for year in whole]
        if len(kept["years"]) < 20 or "01" not in kept["years"]:
            fail(
                InputError,
                f"years such as '1732' are not century + two-digit token for this tokenizer ({len(whole)} of 99 endings)",
                "'17' and '32' as two tokens, and '01' among them",
                "use a model whose tokenizer splits years in two, or another task",
            )
    return kept, refused


def _induction(tokenizer, n: int, rng: np.random.Generator, length: int, bos: int, pad: int, seed: int, split: str, negative: str) -> Task:
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([i for i in range(len(tokenizer)) if i not in special], dtype=np.int32)
    if length < 2 or len(ordinary) < 2 * length:
        fail(
            InputError,
            f"length={length} with {len(ordinary)} ordinary tokens",
            "2 <= length <= half the vocabulary",
            "choose another length",
        )
    drawn = np.stack([rng.choice(ordinary, 2 * length, replace=False) for _ in range(n)])
    first, fresh = drawn[:, :length], drawn[:, length:]
    start = np.full((n, 1), bos, dtype=np.int32)
    other = np.hstack([start, first, fresh[:, :-1]])
    if negative == "copy":
        again = np.stack([np.random.default_rng([seed, 1, row]).choice(ordinary, length, replace=False) for row in range(n)])
        other = np.hstack([start, again, again[:, :-1]])
    elif negative != "fresh":
        other = np.array(_easy(tokenizer, np.full(n, 2 * length), negative, bos, np.random.default_rng([seed, 1])), dtype=np.int32)
    # The second copy stops one short: the token to predict is the last of the first copy.
    return Task(
        name="induction",
        positive=np.hstack([start, first, first[:, :-1]]),
        negative=other.astype(np.int32),
        last=np.full(n, 2 * length - 1),
        answer=first[:, -1],
        wrong=fresh[:, -1],
        group=np.full(n, f"length {length}"),
        template=np.zeros(n, dtype=int),
        pad_id=pad,
        negative_kind=negative,
        provenance=provenance(
            {"tokenizer": str(getattr(tokenizer, "name_or_path", ""))},
            {"task": "induction", "n": n, "length": length, "split": split, "negative": negative},
            seed=seed,
        ),
    )


def _special(tokenizer) -> tuple[int, int]:
    bos = next(
        (value for name in ("bos_token_id", "cls_token_id", "eos_token_id") if (value := getattr(tokenizer, name, None)) is not None), None
    )
    if bos is None:
        fail(InputError, "a tokenizer without BOS, CLS or end-of-text token", "a token that begins every prompt", "set tokenizer.bos_token")
    pad = getattr(tokenizer, "pad_token_id", None)
    return bos, bos if pad is None else pad


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _padded(rows: list[list[int]], width: int, pad: int) -> np.ndarray:
    return np.array([[*row, *[pad] * (width - len(row))] for row in rows], dtype=np.int32)


def _answers(tokenizer, answers: list[tuple[str, ...]]) -> np.ndarray:
    rows = [[_ids(tokenizer, text)[0] for text in row] for row in answers]
    filled = _padded(rows, max(map(len, rows)), -1)
    return filled[:, 0] if filled.shape[1] == 1 else filled
