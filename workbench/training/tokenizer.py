"""Which 4,096 tokens do the embedded models share?

1. Mix Python source (training split) with task prompts, so that names, arguments and two-digit years become single tokens.
2. Train a byte-level BPE whose pre-tokeniser cuts numbers into groups of at most two digits.
3. Check that every word of every task is one token; save a standard Hugging Face tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workbench.circuits import tasks
from workbench.errors import InputError, fail
from workbench.keeping import replaced_folder
from workbench.sources import corpora

BOS, PAD = "<|bos|>", "<|pad|>"
# Words with their leading space, digits in pairs, punctuation, and white space as GPT-2 cuts it.
PATTERN = r" ?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def prompt_texts(rng: np.random.Generator, characters: int) -> Iterator[str]:
    """Endless task prompts with their answers, as text, until `characters` are written."""
    words = {name: {kind: candidates for kind, (candidates, _) in lists.items()} for name, lists in tasks.WORD_LISTS.items()}
    streams = [tasks.GENERATORS[name](rng, words[name], "train") for name in tasks.GENERATORS]
    written = 0
    while written < characters:
        for stream in streams:
            prompt = next(stream)
            text = f"{prompt.positive}{prompt.answer[rng.integers(len(prompt.answer))]}.\n"
            written += len(text)
            yield text


def train_tokenizer(
    folder: str | Path, *, vocabulary: int = 4096, corpus_characters: int = 30_000_000, prompt_share: float = 0.2, seed: int = 0
):
    """Train and save the tokenizer; returns it as a Hugging Face `PreTrainedTokenizerFast`.

    Raises
    ------
    InputError
        When a task word did not become a single token: raise `prompt_share` or `vocabulary`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def texts() -> Iterator[str]:
        read = 0
        for document in corpora.python_source("train", seed):
            read += len(document.text)
            yield document.text
            if read > corpus_characters:
                break
        yield from prompt_texts(np.random.default_rng(seed), int(read * prompt_share))

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    model.decoder = decoders.ByteLevel()
    model.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=[BOS, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=True
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, bos_token=BOS, pad_token=PAD, clean_up_tokenization_spaces=False)
    split = sorted({word for name in tasks.WORD_LISTS for word in tasks.single_tokens(tokenizer, name)[1]})
    if split:
        fail(InputError, f"the trained tokenizer splits the task words {split}", "single tokens", "raise prompt_share or vocabulary")
    with replaced_folder(folder, holds=("*.json", "*.txt", "*.jinja")) as staged:
        tokenizer.save_pretrained(staged)
    return tokenizer
