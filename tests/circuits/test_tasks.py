"""Task prompts: pairs are aligned, answers are right by construction, evaluation shares nothing with training."""

import numpy as np
import pytest

from workbench.circuits import tasks
from workbench.errors import InputError, NotFoundError

NAMES = ("ioi", "greater-than", "docstring", "induction")


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer for which every task word is one token: trained on the words themselves."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    words = [word for lists in tasks.WORD_LISTS.values() for candidates, _ in lists.values() for word in candidates]
    raw.train_from_iterator(
        ["".join(words)] * 9,
        trainers.BpeTrainer(vocab_size=3000, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>")


def decode(tokenizer, row, last):
    return tokenizer.decode(row[1 : last + 1])


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_aligned_and_padded_on_the_right(tokenizer, name):
    prompts = tasks.task(name, tokenizer, n=60, seed=3)
    assert prompts.positive.shape == prompts.negative.shape
    assert (prompts.positive[:, 0] == tokenizer.bos_token_id).all()
    after = np.arange(prompts.positive.shape[1]) > prompts.last[:, None]
    assert (prompts.positive[after] == prompts.pad_id).all()
    assert (prompts.negative[after] == prompts.pad_id).all()
    differing = (prompts.positive != prompts.negative).sum(1)
    assert (differing > 0).all()
    assert (differing < prompts.last).all() or name == "induction"


@pytest.mark.parametrize("name", NAMES)
def test_seeded_and_split(tokenizer, name):
    first, again, other = (tasks.task(name, tokenizer, n=40, seed=seed).positive for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_ioi_answer_is_the_name_said_once(tokenizer):
    prompts = tasks.task("ioi", tokenizer, n=200, seed=0)
    for row, negative, last, answer, wrong in zip(
        prompts.positive, prompts.negative, prompts.last, prompts.answer, prompts.wrong, strict=True
    ):
        assert (row[: last + 1] == answer).sum() == 1
        assert (row[: last + 1] == wrong).sum() == 2
        names = [token for token in negative if tokenizer.decode([token]) in tasks.WORD_LISTS["ioi"]["names"][0]]
        assert len(names) == 3
        assert len(set(names)) == 3
    assert set(prompts.group) == {"ABBA", "BABA"}


def test_greater_than_answers_are_the_later_years(tokenizer):
    prompts = tasks.task("greater-than", tokenizer, n=100, seed=0)
    for row, negative, last, answer, wrong in zip(
        prompts.positive, prompts.negative, prompts.last, prompts.answer, prompts.wrong, strict=True
    ):
        text = decode(tokenizer, row, last)
        start = int(text.split("from the year ")[1][2:4])
        years = [[int(tokenizer.decode([i])) for i in ids if i >= 0] for ids in (answer, wrong)]
        assert min(years[0]) > start >= max(years[1])
        assert decode(tokenizer, negative, last) == text.replace(f"{start:02d} to", "01 to")


def test_docstring_answer_is_the_third_listed_argument(tokenizer):
    prompts = tasks.task("docstring", tokenizer, n=100, seed=0)
    for row, negative, last, answer in zip(prompts.positive, prompts.negative, prompts.last, prompts.answer, strict=True):
        text, other = decode(tokenizer, row, last), decode(tokenizer, negative, last)
        arguments = [argument.strip() for argument in text.split("(self,")[1].split(")")[0].split(",")]
        listed = [line.split(":param ")[1].split(":")[0] for line in text.split("\n") if ":param " in line]
        assert listed == arguments[2:4]
        assert tokenizer.decode([answer]).strip() == arguments[4]
        assert arguments[4] not in other


def test_induction_repeats(tokenizer):
    prompts = tasks.task("induction", tokenizer, n=50, seed=0, length=10)
    np.testing.assert_array_equal(prompts.positive[:, 1:10], prompts.positive[:, 11:20])
    np.testing.assert_array_equal(prompts.answer, prompts.positive[:, 10])
    assert not (prompts.negative[:, 11:20] == prompts.negative[:, 1:10]).any()


@pytest.mark.parametrize("name", ["ioi", "greater-than", "docstring"])
def test_evaluation_prompts_were_never_in_training(tokenizer, name):
    words, _ = tasks.single_tokens(tokenizer, name)
    drawn = {}
    for split in ("train", "eval"):
        stream = tasks.GENERATORS[name](np.random.default_rng(0), words, split)
        drawn[split] = {next(stream).positive for _ in range(3_000)}
    assert not drawn["train"] & drawn["eval"]
    if name == "ioi":  # stronger: no pair of names is shared
        names = set(words["names"])
        pairs = {
            split: {frozenset(f" {w}" for w in text.replace(".", " ").replace(",", " ").split() if f" {w}" in names) for text in texts}
            for split, texts in drawn.items()
        }
        assert not pairs["train"] & pairs["eval"]


def test_held_out_templates_are_other_templates(tokenizer):
    prompts = tasks.task("ioi", tokenizer, n=50, split="held-out-templates")
    starts = {decode(tokenizer, row, last).split()[0] for row, last in zip(prompts.positive, prompts.last, strict=True)}
    assert starts == {"Today", "Because"}


@pytest.mark.parametrize("kind", ["numpy", "torch", "last"])
def test_metric_by_hand(tokenizer, kind):
    import torch

    prompts = tasks.task("ioi", tokenizer, n=8, seed=0)
    logits = np.zeros((*prompts.positive.shape, len(tokenizer)), dtype=np.float32)
    rows = np.arange(8)
    logits[rows, prompts.last, prompts.answer] = 3.0
    logits[rows, prompts.last, prompts.wrong] = 1.0
    given = {"numpy": logits, "torch": torch.tensor(logits, requires_grad=True), "last": logits[rows, prompts.last]}[kind]
    value = prompts.metric(given)
    if kind == "torch":
        value.sum().backward()
        assert given.grad.abs().sum() == 16
        value = value.detach().numpy()
    np.testing.assert_allclose(value, 2.0)
    assert prompts.correct(logits).all()


def test_greater_than_metric_is_a_probability_difference(tokenizer):
    prompts = tasks.task("greater-than", tokenizer, n=5, seed=0)
    logits = np.full((5, len(tokenizer)), -50.0)
    logits[np.arange(5), prompts.answer[:, 0]] = 0.0
    np.testing.assert_allclose(prompts.metric(logits), 1.0, atol=1e-12)  # float64 softmax of one dominant logit
    logits[np.arange(5), prompts.wrong[:, 0]] = 0.0
    np.testing.assert_allclose(prompts.metric(logits), 0.0, atol=1e-12)


@pytest.mark.parametrize(("name", "words"), [
    ("ioi", r"names of task 'ioi' are single tokens; split are .*' Tom'"), ("greater-than", "nouns of task 'greater-than' are single"),
    ("docstring", "arguments of task 'docstring' are single"),
])  # fmt: skip
def test_a_tokenizer_that_splits_the_words_is_refused_with_the_list(tiny_tokenizer, name, words):
    with pytest.raises(InputError, match=words):
        tasks.task(name, tiny_tokenizer)


def metaspace(words):
    """A tokenizer of the other kind: no byte level, a word's space is part of it, as in SentencePiece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    raw.decoder = decoders.Metaspace()
    raw.train_from_iterator(words * 9, trainers.BpeTrainer(vocab_size=2000, special_tokens=["<unk>", "<s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>")


def test_words_that_are_split_are_left_out_and_named():
    """With half of the names known, prompts use these, answers are tokens of their prompt, and the others are recorded."""
    known = [f" {word}" for word in (*tasks_names()[::2], *"store garden book drink".split())]
    tokenizer = metaspace([*known, *"When Then After and went to the gave a".split()])
    words, refused = tasks.single_tokens(tokenizer, "ioi")
    assert set(words["names"]) == set(known[:-4])
    assert f" {tasks_names()[1]}" in refused
    prompts = tasks.task("ioi", tokenizer, n=40)
    assert prompts.provenance["parameters"]["not_single_tokens"] == refused
    for row, last, answer, wrong in zip(prompts.positive, prompts.last, prompts.answer, prompts.wrong, strict=True):
        assert (row[: last + 1] == answer).sum() == 1
        assert (row[: last + 1] == wrong).sum() == 2


def tasks_names():
    return [word.strip() for word in tasks.WORD_LISTS["ioi"]["names"][0]]


def test_bad_requests(tokenizer):
    with pytest.raises(NotFoundError, match="greater-than"):
        tasks.task("ioy", tokenizer)
    with pytest.raises(InputError, match="n >= 1"):
        tasks.task("ioi", tokenizer, n=0)
    with pytest.raises(InputError, match="half the vocabulary"):
        tasks.task("induction", tokenizer, length=1)
    with pytest.raises(InputError, match="logits of shape"):
        tasks.task("ioi", tokenizer, n=4).metric(np.zeros((3, 7)))


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_negative_is_aligned(tokenizer, name):
    usual = tasks.task(name, tokenizer, n=30, seed=1)
    for kind in tasks.NEGATIVES[name]:
        prompts = tasks.task(name, tokenizer, n=30, seed=1, negative=kind)
        assert prompts.negative_kind == kind
        np.testing.assert_array_equal(prompts.positive, usual.positive)
        np.testing.assert_array_equal(prompts.last, usual.last)
        after = ~prompts.keep
        assert (prompts.negative[after] == prompts.pad_id).all()
        assert (prompts.negative[:, 0] == tokenizer.bos_token_id).all()
        assert (prompts.negative != prompts.positive).any(1).all()
    with pytest.raises(InputError, match="negative='wrong'"):
        tasks.task(name, tokenizer, n=3, negative="wrong")


def test_what_the_kinds_of_negative_say(tokenizer):
    years = tasks.task("greater-than", tokenizer, n=20, negative="range")
    for row, other, last in zip(years.positive, years.negative, years.last, strict=True):
        text, changed = decode(tokenizer, row, last), decode(tokenizer, other, last)
        assert int(changed.split()[-1]) == int(text.split()[-1]) - 1
        assert text.rsplit(" ", 1)[0] == changed.rsplit(" ", 1)[0]
    copies = tasks.task("ioi", tokenizer, n=20, negative="copy")
    for other, last in zip(copies.negative, copies.last, strict=True):
        names = [token for token in other[: last + 1] if tokenizer.decode([token]) in tasks.WORD_LISTS["ioi"]["names"][0]]
        assert len(names) == 3
        assert len(set(names)) == 2
    fresh = tasks.task("ioi", tokenizer, n=20, negative="new-names")
    for other, answer, wrong in zip(fresh.negative, fresh.answer, fresh.wrong, strict=True):
        assert not np.isin([answer, wrong], other).any()
    again = tasks.task("induction", tokenizer, n=10, length=6, negative="copy").negative
    np.testing.assert_array_equal(again[:, 1:6], again[:, 7:12])


def test_orders_templates_and_held_out_templates(tokenizer):
    for order in ("ABBA", "BABA"):
        assert set(tasks.task("ioi", tokenizer, n=20, order=order).group) == {order}
    chosen = tasks.task("ioi", tokenizer, n=10, template=3)
    assert set(chosen.template) == {3}
    assert all(decode(tokenizer, row, last).split()[0] == "While" for row, last in zip(chosen.positive, chosen.last, strict=True))
    assert len(set(tasks.task("ioi", tokenizer, n=60).template)) == 8
    for name in ("greater-than", "docstring"):
        other = tasks.task(name, tokenizer, n=20, split="held-out-templates")
        assert set(other.template) == {0, 1}
    with pytest.raises(InputError, match="order='AABB'"):
        tasks.task("greater-than", tokenizer, n=2, order="AABB")


def test_part_of_a_task(tokenizer):
    prompts = tasks.task("greater-than", tokenizer, n=10)
    part = prompts.take(slice(2, 5))
    np.testing.assert_array_equal(part.positive, prompts.positive[2:5])
    assert part.answer.shape == (3, prompts.answer.shape[1])
    logits = np.random.default_rng(0).standard_normal((10, len(tokenizer)))
    np.testing.assert_allclose(part.metric(logits[2:5]), prompts.metric(logits)[2:5])
