"""What do circuit methods find in a model whose circuit is known because its weights were set by hand?

1. The residual stream is cut into blocks of 32 dimensions: token, position, previous token, output, and four that nobody reads. Tokens
   and positions are rows of a Hadamard matrix (orthogonal, entries ±1, mean 0), so layer norm only scales them.
2. Head (0, 2) attends from a position to the one before it and writes that token into the block "previous token".
3. Head (2, 5) attends from a token to positions whose previous token is the same, and writes the token found there into "output", which
   the unembedding reads: induction.
4. Every other head writes into unread blocks only. They attend to themselves, to the first position, everywhere, to the same token, to
   the previous token, or as an induction head does: neither a pattern of attention nor a large output makes a head part of the circuit.
   They touch the answer only through the scale of layer norm, by less than one percent.
5. Weights are written as a Hugging Face GPT-2 folder whose MLPs are zero: an attention-only transformer.

`python -m workbench.circuits.constructed FOLDER` writes it.

Source: the two-head induction circuit of Elhage et al. 2021 and Olsson et al. 2022; the construction is ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench.keeping import replace_file

NAME = "constructed-induction"
CIRCUIT = frozenset({(0, 2), (2, 5)})
EDGES = frozenset({((0, 2), (2, 5))})
N_LAYERS, N_HEADS, D_HEAD = 3, 8, 32
D_MODEL = N_HEADS * D_HEAD
N_TOKENS = N_POSITIONS = D_HEAD - 1  # rows of the Hadamard matrix but for the constant one
LONGEST = 14  # tokens that can be repeated: both copies fit into the context and are all different
TOKEN, POSITION, PREVIOUS, OUTPUT = range(4)
UNREAD = (4, 5, 6, 7)
KINDS = ("self", "first", "everywhere", "same token", "previous", "induction")
_SHARPNESS = 10.0  # attention score of the right position above all others
_UNREAD_SIZE = 0.5  # of a distractor's output, in units of a token's
_BALLAST = 4.0  # size of positions, in units of a token: a steady norm, so that no head moves layer norm's scale by much
_LOGIT = 8.0  # answer above any other token, about


def build_constructed_model(folder: str | os.PathLike, *, seed: int = 0) -> Path:
    """Write the model as a Hugging Face folder that `load_model` reads.

    Parameters
    ----------
    folder : path
        Created if need be; its name becomes the model's.
    seed : int
        Which head is which distractor, and where it writes; the circuit is the same for every seed.

    Returns
    -------
    Path
        The folder: config.json, model.safetensors (float32, about 3 MB), tokenizer.json, tokenizer_config.json.

    Raises
    ------
    StorageError
        When the folder cannot be written.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": N_TOKENS, "n_positions": N_POSITIONS, "n_embd": D_MODEL,
        "n_layer": N_LAYERS, "n_head": N_HEADS, "n_inner": 4, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    }  # fmt: skip
    replace_file(folder / "model.safetensors", save(_weights(seed), metadata={"format": "pt"}))
    replace_file(folder / "config.json", json.dumps(config, indent=1).encode())
    replace_file(folder / "tokenizer.json", _tokenizer())
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": N_POSITIONS, **special}
    replace_file(folder / "tokenizer_config.json", json.dumps(settings, indent=1).encode())
    return folder


def distractors(seed: int = 0) -> dict[tuple[int, int], str]:
    """What each head outside the circuit attends to.

    Parameters
    ----------
    seed : int
        As in `build_constructed_model`.
    """
    rng = np.random.default_rng([seed, 0])
    others = [(layer, head) for layer in range(N_LAYERS) for head in range(N_HEADS) if (layer, head) not in CIRCUIT]
    # the block of previous tokens is empty before layer 1
    return {place: str(rng.choice(KINDS if place[0] else KINDS[:-1])) for place in others}


def _codes() -> np.ndarray:
    from scipy.linalg import hadamard

    return hadamard(D_HEAD)[1:].astype(float)  # (31, 32), rows orthogonal, each of mean 0 and square norm 32


def _tokenizer() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<bos>", "<eos>", "<pad>", *(f"w{index}" for index in range(N_TOKENS - 3))]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(words[:3])
    return raw.to_str().encode()


def _weights(seed: int) -> dict[str, np.ndarray]:
    codes, rng, roles = _codes(), np.random.default_rng([seed, 1]), distractors(seed)
    weights = {"transformer.wte.weight": _into(TOKEN, codes), "transformer.wpe.weight": _BALLAST * _into(POSITION, codes)}
    before = np.roll(codes, 1, axis=0)
    before[0] = 0  # the first position has no previous one
    shift = codes.T @ before / D_HEAD  # code of p -> code of p - 1
    square = (1 + _BALLAST**2) * D_HEAD  # square norm of the stream: token and position
    for layer in range(N_LAYERS):
        scale = np.sqrt(D_MODEL / square)  # layer norm multiplies by this
        sharp = _SHARPNESS * np.sqrt(D_HEAD) / (D_HEAD * scale**2)  # so that a match scores _SHARPNESS
        query, key, value, out = (np.zeros((N_HEADS, D_MODEL, D_HEAD)) for _ in range(4))
        bias = np.zeros((N_HEADS, D_HEAD))
        for head in range(N_HEADS):
            kind = {(0, 2): "previous", (2, 5): "induction"}.get((layer, head)) or roles[layer, head]
            reads = {"self": (POSITION, POSITION), "previous": (POSITION, POSITION), "same token": (TOKEN, TOKEN),
                     "first": (None, POSITION), "everywhere": (None, None), "induction": (TOKEN, PREVIOUS)}[kind]  # fmt: skip
            for matrix, block in zip((query, key), reads, strict=True):
                if block is not None:
                    matrix[head, _block(block)] = np.eye(D_HEAD) / (_BALLAST if block == POSITION else 1)
            query[head] *= sharp
            if kind == "previous":
                query[head, _block(POSITION)] = sharp / _BALLAST * shift
            if kind == "first":
                bias[head] = sharp * scale * codes[0]
            value[head, _block(TOKEN)] = np.eye(D_HEAD) / scale  # the token's code at its own size
            if (layer, head) in CIRCUIT:
                out[head, _block(PREVIOUS if layer == 0 else OUTPUT)] = np.eye(D_HEAD)
            else:
                turn, _ = np.linalg.qr(rng.standard_normal((D_HEAD, D_HEAD)))
                out[head, _block(int(rng.choice(UNREAD)))] = _UNREAD_SIZE * (
                    turn - turn.mean(1, keepdims=True)
                )  # mean 0 whatever is written
            square += D_HEAD * (1.0 if (layer, head) in CIRCUIT else _UNREAD_SIZE**2)
        name = f"transformer.h.{layer}"
        joined = [np.concatenate(list(part), axis=1) for part in (query, key, value)]  # (d, H·d_head) each
        weights[f"{name}.attn.c_attn.weight"] = np.concatenate(joined, axis=1)
        weights[f"{name}.attn.c_attn.bias"] = np.concatenate([bias.ravel(), np.zeros(2 * D_MODEL)])
        weights[f"{name}.attn.c_proj.weight"] = np.concatenate([part.T for part in out])  # (H·d_head, d)
        weights[f"{name}.attn.c_proj.bias"] = np.zeros(D_MODEL)
        for part, shape in {"c_fc": (D_MODEL, 4), "c_proj": (4, D_MODEL)}.items():
            weights[f"{name}.mlp.{part}.weight"], weights[f"{name}.mlp.{part}.bias"] = np.zeros(shape), np.zeros(shape[1])
        for norm in ("ln_1", "ln_2"):
            weights[f"{name}.{norm}.weight"], weights[f"{name}.{norm}.bias"] = np.ones(D_MODEL), np.zeros(D_MODEL)
    weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"] = np.ones(D_MODEL), np.zeros(D_MODEL)
    weights["lm_head.weight"] = _LOGIT / (D_HEAD * np.sqrt(D_MODEL / square)) * _into(OUTPUT, codes)
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}


def _block(number: int) -> slice:
    return slice(number * D_HEAD, (number + 1) * D_HEAD)


def _into(block: int, codes: np.ndarray) -> np.ndarray:
    """Codes (k, 32) in one block of the stream, (k, d_model)."""
    placed = np.zeros((len(codes), D_MODEL))
    placed[:, _block(block)] = codes
    return placed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the module's name; those of the command line by default.
    """
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m workbench.circuits.constructed", description="Write the hand-made induction model.")
    parser.add_argument("folder", type=Path, help="where it goes; the folder's name becomes the model's")
    parser.add_argument("--seed", type=int, default=0, help="which head is which distractor (default: %(default)s)")
    options = parser.parse_args(arguments)
    sys.stdout.write(f"{build_constructed_model(options.folder, seed=options.seed)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
