"""Which behaviours do we look for circuits of? Prompts with a right and a wrong next token, in matched pairs.

1. A generator draws the words of a prompt (names, years, arguments) and writes a positive text that calls for the behaviour and a
   negative text, aligned with it, that does not.
2. `task` keeps the words that are one token for the given tokenizer, tokenises the pairs and checks that each pair has one length.
3. Prompts are split by a hash of their decisive words, so that nothing in `split="eval"` was ever in `split="train"`, on which the
   embedded models were trained.

Sources: IOI, Wang et al. 2023; greater-than, Hanna et al. 2023; docstring, Heimersheim and Janiak 2023; repeated random tokens,
Olsson et al. 2022; negatives as in O'Neill and Bui 2024 (`methods.md` section 5).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from workbench.errors import InputError, NotFoundError, fail
from workbench.results import Result, provenance

NAMES = (
    "Mary John Tom James Anna Paul Mark Lucy Sarah Peter David Emma Alice Jack Robert Laura Simon Kate Henry Julia Adam Helen George Rose "
    "Daniel Susan Kevin Grace Martin Diana Oliver Claire Victor Nina Frank Sofia Louis Clara Oscar Ruth Philip Jane Walter Irene Edward "
    "Amy Arthur Eva Brian Maria Carl Linda Eric Karen Steven Judy Roger Nancy Andrew Lisa"
).split()
PLACES = (
    "store garden school office station library market museum hospital park beach restaurant "
    "kitchen church bank hotel farm theater harbor factory"
).split()
OBJECTS = "book drink ball ring letter map box key coin hat picture basket flower gift pen card lamp knife cup ticket".split()
NOUNS = (
    "war siege journey voyage famine drought festival project reign conflict mission trial strike plague rebellion campaign expedition "
    "dynasty alliance debate survey program study contest program treaty exile construction crisis dispute occupation partnership tradition"
).split()
ARGUMENTS = (
    "name path data size value index key node text line mode type kind form file label shape axis order level count limit width height "
    "color title start stop step offset source target parent child graph model query field group table cache token state event "
    "buffer format prefix suffix filter weight score signal kernel matrix vector point scale factor"
).split()
WORDS = (
    "list number string object option default array function current first new optional input output result method common simple "
    "final base given local global total extra single main"
).split()
METHODS = "load update build apply compute merge parse render convert select resolve create remove insert check collect".split()

IOI_TEMPLATES = (
    "When{A} and{B} went to the{PLACE},{S} gave a{OBJECT} to",
    "Then,{A} and{B} met at the{PLACE}, and{S} handed a{OBJECT} to",
    "After{A} and{B} arrived at the{PLACE},{S} showed a{OBJECT} to",
    "While{A} and{B} were working at the{PLACE},{S} offered a{OBJECT} to",
    "Yesterday{A} and{B} walked past the{PLACE}.{S} brought a{OBJECT} to",
    "Friends{A} and{B} found a{OBJECT} near the{PLACE}, so{S} gave it to",
    "The{PLACE} was closed when{A} and{B} came.{S} passed a{OBJECT} to",
    "Since{A} and{B} had a lot of fun at the{PLACE},{S} sent a{OBJECT} to",
)
IOI_HELD_OUT_TEMPLATES = (
    "Today{A} and{B} left the{PLACE} early, and{S} lent a{OBJECT} to",
    "Because{A} and{B} were late for the{PLACE},{S} threw a{OBJECT} to",
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One matched pair of texts; `answer` and `wrong` are the strings of the next token (several for greater-than)."""

    positive: str
    negative: str
    answer: tuple[str, ...]
    wrong: tuple[str, ...]
    group: str  # what is held out together


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
        Template, or what prompts share.
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
        scores = logits if given else torch.as_tensor(np.asarray(logits))
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


def task(name: str, tokenizer, *, n: int = 250, seed: int = 0, split: str = "eval", length: int = 24) -> Task:
    """Matched prompts of one behaviour, tokenised.

    Parameters
    ----------
    name : "ioi", "greater-than", "docstring" or "induction"
    tokenizer : Hugging Face tokenizer, or a model that carries one
    n : int
        Number of positive prompts, and of negative ones.
    seed : int
    split : "eval", "train" or, for IOI, "held-out-templates"
        The embedded models were trained on `"train"` only.
    length : int
        Induction: number of random tokens before they repeat.

    Raises
    ------
    NotFoundError
        For an unknown task.
    InputError
        When too few of the words a task needs are single tokens of this tokenizer; the message lists the ones that are not.
    """
    if name not in GENERATORS and name != "induction":
        fail(NotFoundError, f"no task {name!r}", f"one of {sorted([*GENERATORS, 'induction'])}", "check the spelling")
    if n < 1 or split not in ("eval", "train", "held-out-templates"):
        fail(InputError, f"n={n}, split={split!r}", "n >= 1 and split 'eval', 'train' or 'held-out-templates'", "correct the call")
    tokenizer = getattr(tokenizer, "tokenizer", None) if hasattr(tokenizer, "blocks") else tokenizer
    bos, pad = _special(tokenizer)
    rng = np.random.default_rng(seed)
    if name == "induction":
        return _induction(tokenizer, n, rng, length, bos, pad, seed, split)
    words, refused = single_tokens(tokenizer, name)
    drawn = GENERATORS[name](rng, words, split)
    prompts = [next(drawn) for _ in range(n)]
    positive, negative = (
        [[bos, *_ids(tokenizer, text)] for text in texts] for texts in zip(*((p.positive, p.negative) for p in prompts), strict=True)
    )
    uneven = [p.positive for p, a, b in zip(prompts, positive, negative, strict=True) if len(a) != len(b)]
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
        negative=_padded(negative, widest, pad),
        last=np.array([len(row) - 1 for row in positive]),
        answer=_answers(tokenizer, [p.answer for p in prompts]),
        wrong=_answers(tokenizer, [p.wrong for p in prompts]),
        group=np.array([p.group for p in prompts]),
        pad_id=pad,
        metric_kind="probability difference" if name == "greater-than" else "logit difference",
        provenance=provenance(
            {"tokenizer": str(getattr(tokenizer, "name_or_path", ""))},
            {"task": name, "n": n, "split": split, "not_single_tokens": refused},
            seed=seed,
        ),
    )


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


def held_out(*decisive: str) -> bool:
    """Whether a prompt with these decisive words belongs to evaluation (one in eight does), whatever their order."""
    return hashlib.sha256("|".join(sorted(decisive)).encode()).digest()[0] % 8 == 0


def _wanted(split: str, *decisive: str) -> bool:
    return held_out(*decisive) == (split != "train")


def _ioi(rng: np.random.Generator, words: dict[str, list[str]], split: str) -> Iterator[Prompt]:
    templates = IOI_HELD_OUT_TEMPLATES if split == "held-out-templates" else IOI_TEMPLATES
    while True:
        io, subject, third = rng.choice(words["names"], 3, replace=False)
        if not _wanted(split, io, subject):
            continue
        template = templates[rng.integers(len(templates))]
        first, order = ((io, subject), "ABBA") if rng.random() < 0.5 else ((subject, io), "BABA")
        # The negative has no repeated name: the subject's first place goes to the IO name and the IO's place to a third one.
        other = (third, io) if order == "ABBA" else (io, third)
        slots = {"PLACE": rng.choice(words["places"]), "OBJECT": rng.choice(words["objects"]), "S": subject}
        yield Prompt(
            template.format(A=first[0], B=first[1], **slots),
            template.format(A=other[0], B=other[1], **slots),
            (str(io),),
            (str(subject),),
            order,
        )


def _greater_than(rng: np.random.Generator, words: dict[str, list[str]], split: str) -> Iterator[Prompt]:
    years = sorted(words["years"])
    starts = [year for year in years if "02" <= year <= "98" and year < years[-1]]
    while True:
        noun, century, start = rng.choice(words["nouns"]), rng.choice(CENTURIES), str(rng.choice(starts))
        if not _wanted(split, noun, century, start):
            continue
        text = "The{noun} lasted from the year {century}{start} to the year {century}"
        yield Prompt(
            text.format(noun=noun, century=century, start=start),
            text.format(noun=noun, century=century, start="01"),
            tuple(year for year in years if year > start),
            tuple(year for year in years if year <= start),
            century,
        )


def _docstring(rng: np.random.Generator, words: dict[str, list[str]], split: str) -> Iterator[Prompt]:
    def write(method, before, matching, after, listed, description, notes):
        lines = [f"def{method}(self,{','.join([*before, *matching, *after])}):", f'    """{"".join(description).strip()}', ""]
        lines += [f"    :param{argument}:{note}" for argument, note in zip(listed, notes, strict=True)]
        return "\n".join([*lines, "    :param"])

    while True:
        drawn = [str(word) for word in rng.choice(words["arguments"], 11, replace=False)]
        before, matching, after, fresh = drawn[:2], drawn[2:5], drawn[5:6], drawn[6:]
        if not _wanted(split, *matching):
            continue
        texts = [str(word) for word in rng.choice(words["words"], 7)]
        shared = {"method": rng.choice(words["methods"]), "description": texts[:3], "notes": ["".join(texts[3:5]), "".join(texts[5:7])]}
        yield Prompt(
            write(before=before, matching=matching, after=after, listed=matching[:2], **shared),
            # Signature and description name different arguments: nothing tells which one comes next.
            write(before=before, matching=fresh[:3], after=after, listed=fresh[3:], **shared),
            (matching[2],),
            (matching[1],),
            "rest",
        )


def _induction(tokenizer, n: int, rng: np.random.Generator, length: int, bos: int, pad: int, seed: int, split: str) -> Task:
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
    # The second copy stops one short: the token to predict is the last of the first copy.
    return Task(
        name="induction",
        positive=np.hstack([start, first, first[:, :-1]]),
        negative=np.hstack([start, first, fresh[:, :-1]]),
        last=np.full(n, 2 * length - 1),
        answer=first[:, -1],
        wrong=fresh[:, -1],
        group=np.full(n, f"length {length}"),
        pad_id=pad,
        provenance=provenance(
            {"tokenizer": str(getattr(tokenizer, "name_or_path", ""))},
            {"task": "induction", "n": n, "length": length, "split": split},
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


CENTURIES = tuple(str(c) for c in range(11, 20))
GENERATORS: dict[str, Callable[[np.random.Generator, dict[str, list[str]], str], Iterator[Prompt]]] = {
    "ioi": _ioi,
    "greater-than": _greater_than,
    "docstring": _docstring,
}
# kind -> (candidates as they stand in the prompt, how many must be single tokens)
WORD_LISTS: dict[str, dict[str, tuple[list[str], int]]] = {
    "ioi": {"names": ([f" {w}" for w in NAMES], 8), "places": ([f" {w}" for w in PLACES], 2), "objects": ([f" {w}" for w in OBJECTS], 2)},
    "greater-than": {"nouns": ([f" {w}" for w in dict.fromkeys(NOUNS)], 2), "years": ([f"{y:02d}" for y in range(1, 100)], 20)},
    "docstring": {
        "arguments": ([f" {w}" for w in ARGUMENTS], 12),
        "words": ([f" {w}" for w in WORDS], 4),
        "methods": ([f" {w}" for w in METHODS], 2),
    },
}
