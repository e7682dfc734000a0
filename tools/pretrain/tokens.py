"""The tokenizer, the token streams, and embeddings factorised from co-occurrence."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus import Document, Split
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, PAD = "<|endoftext|>", "<|pad|>"


@dataclass(frozen=True)
class Stream:
    """Documents joined by END: `ids` [T] uint16; `is_answer` [T] uint8, 1 on the tokens a task asks for."""

    ids: np.ndarray
    is_answer: np.ndarray


def train_tokenizer(splits: dict[str, Split], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on a balance of the sources."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # every third novel passage: otherwise the novels own the vocabulary
    strides = {"novels": 3}
    texts = (d.text for source, split in splits.items() for d in split.train[:: strides.get(source, 1)])
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=PAD, model_max_length=512
    )


def encode(tokenizer: PreTrainedTokenizerFast, documents: Iterable[Document]) -> Stream:
    """Return the documents as one stream of tokens."""
    documents = list(documents)
    end = np.array([tokenizer.eos_token_id], dtype=np.uint16)
    ids, is_answer = [], []
    for first in range(0, len(documents), 10_000):  # in parts: encodings with offsets are large
        part = documents[first : first + 10_000]
        encodings = tokenizer.backend_tokenizer.encode_batch([d.text for d in part], add_special_tokens=False)
        for document, encoding in zip(part, encodings, strict=True):
            ids += [np.array(encoding.ids, dtype=np.uint16), end]
            mask = np.zeros(len(encoding.ids) + 1, dtype=np.uint8)
            if document.answers:
                spans = np.array(encoding.offsets)
                for start, stop in document.answers:
                    mask[:-1] |= ((spans[:, 1] > start) & (spans[:, 0] < stop)).astype(np.uint8)
            is_answer.append(mask)
    return Stream(np.concatenate(ids), np.concatenate(is_answer))


def cached_stream(path: Path, tokenizer: PreTrainedTokenizerFast, documents: Iterable[Document]) -> Stream:
    """Return `encode` of the documents, read from `path` if an earlier run wrote it there."""
    if not path.exists():
        stream = encode(tokenizer, documents)
        save_file({"ids": stream.ids, "is_answer": stream.is_answer}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return Stream(**load_file(path))


def factorise_cooccurrence(ids: Iterable[np.ndarray], vocabulary: int, width: int, *, window: int = 4) -> torch.Tensor:
    """Return embeddings [V, H] float32 of standard deviation 0.02: an SVD of positive PMI.

    Levy and Goldberg, "Neural word embedding as implicit matrix factorization" (2014), with their
    context smoothing of 0.75: nearest words mean something from the first step on.
    """
    counts = torch.zeros(vocabulary * vocabulary)
    for stream in ids:
        tokens = torch.from_numpy(stream.astype(np.int64))
        for offset in range(1, window + 1):
            for left, right in zip(tokens[:-offset].split(4_000_000), tokens[offset:].split(4_000_000), strict=True):
                pairs = torch.bincount(left * vocabulary + right, minlength=vocabulary * vocabulary)
                counts += pairs.float() / offset
    joint = counts.view(vocabulary, vocabulary)
    joint = joint + joint.T
    context = joint.sum(0) ** 0.75
    ratio = joint * context.sum() / (joint.sum(1, keepdim=True) * context + 1e-9)
    u, s, _ = torch.svd_lowrank(torch.log(ratio + 1e-9).clamp_(min=0), q=width, niter=4)
    embeddings = u * s.sqrt()
    embeddings = embeddings - embeddings.mean(0)
    return embeddings / embeddings.std() * 0.02
