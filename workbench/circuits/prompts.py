"""Which texts call for a behaviour, and which, aligned with them, do not? Words, templates and generators of matched pairs.

1. The words of a prompt (names, years, arguments) are drawn from lists, of which a tokenizer keeps those that are one token.
2. A generator writes a positive text and a negative one that differs in the decisive words only.
3. Prompts belong to training or to evaluation by a hash of their decisive words; held-out templates are never trained on.

Sources: IOI, Wang et al. 2023; greater-than, Hanna et al. 2023; docstring, Heimersheim and Janiak 2023; negatives, O'Neill and Bui 2024
(`methods.md` section 5; of the kinds of negative in their figure only the names are public, the wording here is ours).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import numpy as np

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


GREATER_THAN_TEMPLATES = ("The{noun} lasted from the year {century}{start} to the year {end}",)
GREATER_THAN_HELD_OUT_TEMPLATES = (
    "The{noun} began in the year {century}{start} and ended in the year {end}",
    "It is known that the{noun} took place from the year {century}{start} until the year {end}",
)
DOCSTRING_MARKS = (":param",)
DOCSTRING_HELD_OUT_MARKS = (":arg", "@param")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One matched pair of texts; `answer` and `wrong` are the strings of the next token (several for greater-than)."""

    positive: str
    negative: str
    answer: tuple[str, ...]
    wrong: tuple[str, ...]
    group: str  # what is held out together
    template: int = 0  # index into the templates of the split


def held_out(*decisive: str) -> bool:
    """Whether a prompt with these decisive words belongs to evaluation (one in eight does), whatever their order."""
    return hashlib.sha256("|".join(sorted(decisive)).encode()).digest()[0] % 8 == 0


def _wanted(split: str, *decisive: str) -> bool:
    return held_out(*decisive) == (split != "train")


def _ioi(rng: np.random.Generator, words: dict[str, list[str]], split: str, negative: str = "abc") -> Iterator[Prompt]:
    templates = IOI_HELD_OUT_TEMPLATES if split == "held-out-templates" else IOI_TEMPLATES
    aside = rng.spawn(1)[0]  # what a kind of negative draws besides leaves the positives as they are under every kind
    while True:
        io, subject, third = rng.choice(words["names"], 3, replace=False)
        if not _wanted(split, io, subject):
            continue
        number = int(rng.integers(len(templates)))
        template = templates[number]
        first, order = ((io, subject), "ABBA") if rng.random() < 0.5 else ((subject, io), "BABA")
        # The negative has no repeated name: the subject's first place goes to the IO name and the IO's place to a third one.
        other = (third, io) if order == "ABBA" else (io, third)
        slots = {"PLACE": rng.choice(words["places"]), "OBJECT": rng.choice(words["objects"]), "S": subject}
        changed = slots
        if negative == "new-names":  # neither the answer nor the subject is said: the logit difference itself is gone
            *new, last = aside.choice([name for name in words["names"] if name not in (io, subject)], 3, replace=False)
            other, changed = tuple(new), slots | {"S": last}
        yield Prompt(
            template.format(A=first[0], B=first[1], **slots),
            template.format(A=other[0], B=other[1], **changed),
            (str(io),),
            (str(subject),),
            order,
            number,
        )


def _greater_than(rng: np.random.Generator, words: dict[str, list[str]], split: str, negative: str = "year") -> Iterator[Prompt]:
    years = sorted(words["years"])
    starts = [year for year in years if "02" <= year <= "98" and year < years[-1]]
    templates = GREATER_THAN_HELD_OUT_TEMPLATES if split == "held-out-templates" else GREATER_THAN_TEMPLATES
    while True:
        noun, century, start = rng.choice(words["nouns"]), rng.choice(CENTURIES), str(rng.choice(starts))
        if not _wanted(split, noun, century, start):
            continue
        number = _template(rng, templates)
        slots = {"noun": noun, "century": century, "start": start, "end": century}
        # After 01 nearly every year is later; a range that ends before it begins has no right answer.
        changed = {"start": "01"} if negative == "year" else {"end": str(int(century) - 1)}
        yield Prompt(
            templates[number].format(**slots),
            templates[number].format(**(slots | changed)),
            tuple(year for year in years if year > start),
            tuple(year for year in years if year <= start),
            century,
            number,
        )


def _template(rng: np.random.Generator, templates: tuple[str, ...]) -> int:
    """A template's number; a single template draws nothing, so that the stream of words stays what the models were trained on."""
    return int(rng.integers(len(templates))) if len(templates) > 1 else 0


def _docstring(rng: np.random.Generator, words: dict[str, list[str]], split: str, negative: str = "random-random") -> Iterator[Prompt]:
    marks = DOCSTRING_HELD_OUT_MARKS if split == "held-out-templates" else DOCSTRING_MARKS

    def write(method, before, matching, after, listed, description, notes, mark):
        lines = [f"def{method}(self,{','.join([*before, *matching, *after])}):", f'    """{"".join(description).strip()}', ""]
        lines += [f"    {mark}{argument}:{note}" for argument, note in zip(listed, notes, strict=True)]
        return "\n".join([*lines, f"    {mark}"])

    while True:
        drawn = [str(word) for word in rng.choice(words["arguments"], 11, replace=False)]
        before, matching, after, fresh = drawn[:2], drawn[2:5], drawn[5:6], drawn[6:]
        if not _wanted(split, *matching):
            continue
        texts = [str(word) for word in rng.choice(words["words"], 7)]
        shared = {"method": rng.choice(words["methods"]), "description": texts[:3], "notes": ["".join(texts[3:5]), "".join(texts[5:7])]}
        number = _template(rng, marks)
        shared["mark"] = marks[number]
        yield Prompt(
            write(before=before, matching=matching, after=after, listed=matching[:2], **shared),
            # Signature and description name different arguments: nothing tells which one comes next.
            write(before=before, matching=fresh[:3], after=after, listed=fresh[3:], **shared),
            (matching[2],),
            (matching[1],),
            "rest",
            number,
        )


CENTURIES = tuple(str(c) for c in range(11, 20))
GENERATORS: dict[str, Callable[..., Iterator[Prompt]]] = {
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
# The kinds of negative of each task, the usual one first. Of every kind a prompt has as many tokens as its positive:
# "random" is random tokens, "unrelated" ordinary prose, and "copy" another positive, in which nothing is missing: a control.
NEGATIVES: dict[str, tuple[str, ...]] = {
    "ioi": ("abc", "new-names", "random", "unrelated", "copy"),
    "greater-than": ("year", "range", "random", "unrelated", "copy"),
    "docstring": ("random-random", "random", "unrelated", "copy"),
    "induction": ("fresh", "random", "unrelated", "copy"),
}
# The kind that takes the behaviour away from the metric too, for patching. The usual negative of IOI still names the answer, and the
# metric is as large on it as on the positive.
CORRUPTION = {name: kinds[0] for name, kinds in NEGATIVES.items()} | {"ioi": "new-names"}
# The kind for connections. Where nothing repeats, the negative of induction begins as the positive does, and what earlier heads write of
# it is the same; where something else repeats, what they pass on differs.
EDGE_CORRUPTION = CORRUPTION | {"induction": "copy"}
UNRELATED = (
    "The river was low that summer, and the boats stayed at the wall below the mill. Nobody had painted the fence for a long time. "
    "We left the windows open at night and heard the trains far away. A cold wind came over the hills in the morning, so the children "
    "wore their coats to school. Bread was baked twice a week, and the smell of it went through the whole street. In the evening the "
    "lamps were lit one after the other, first in the square and then along the water. Old people sat on the bench and talked of the "
    "weather. Nothing else happened there, and most of us were glad of it. When the snow melted the road turned into mud, and carts had "
    "to wait until it was dry again. The smith closed his shop early. Rain fell on the roofs all through the following day. "
)
