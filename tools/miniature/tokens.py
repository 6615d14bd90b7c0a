"""A CLIP tokenizer in which every word of the vocabulary is one token.

Other words are split into letters. The end token has the highest id, as CLIP's pooling expects.
"""

from __future__ import annotations

from transformers import CLIPTokenizer

from .captions import WORDS

LENGTH = 32  # tokens in a prompt, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """Return the 256 printable characters for bytes in byte-level BPE, in its usual order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def list_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Return all tokens but the two special ones, and the merges that make the vocabulary's words.

    Words grow from their last letter: each merge is a letter and the end of a word, so no merge of
    one word can get in the way of another.
    """
    letters = byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        joined = word[-1] + "</w>"
        for letter in reversed(word[:-1]):
            if (letter, joined) not in merges:
                merges.append((letter, joined))
            joined = letter + joined
            if joined not in tokens:
                tokens.append(joined)
    return tokens, merges


def build_tokenizer() -> CLIPTokenizer:
    """Build byte-level BPE with `</w>`, in which every word of the vocabulary is one token."""
    tokens, merges = list_merges()
    vocabulary = {token: i for i, token in enumerate([*tokens, START, END])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    for word in WORDS:
        if len(tokenizer(word).input_ids) != 3:
            raise ValueError(f"the word {word!r} is not one token: {tokenizer.tokenize(word)}")
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]):
    """Return input_ids and attention_mask, both (B, LENGTH), padded as in the prior pipeline."""
    return tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
