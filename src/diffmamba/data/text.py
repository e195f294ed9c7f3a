"""Text to train on and text to measure on, as streams of token ids."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..errors import RunError
from .tokenizer import END_OF_TEXT

HELD_OUT = 0.05
"""Share of the bytes that is kept from training."""


@dataclass(frozen=True)
class Corpus:
    """Two streams of token ids, from different files.

    Args:
        name: where the text is from.
        train: ids (tokens).
        held_out: ids (tokens).
        held_out_bytes: bytes of text that `held_out` stands for.
    """

    name: str
    train: np.ndarray
    held_out: np.ndarray
    held_out_bytes: int

    @property
    def bytes_per_token(self) -> float:
        return self.held_out_bytes / len(self.held_out)


def load_corpus(source: Path | None, tokenizer: PreTrainedTokenizerBase, held_out: Path | None = None) -> Corpus:
    """Read a file, a folder, or (None) the source text of the running Python's standard library.

    A folder's text files are split whole: the same ones are held out every time, chosen by a hash of their paths,
    until they make up 5 % of the bytes. Of a single file the last 5 % are held out. With `held_out`, all of
    `source` is for training.

    Raises:
        RunError: a path that is missing, empty, holds no text, or has too little to hold any out.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if source is None else source
    documents = _read(root, "*.py" if source is None else "*")
    name = "Python standard library" if source is None else str(source)
    if held_out is not None:
        train, test = list(documents.values()), list(_read(held_out, "*").values())
    elif len(documents) == 1:
        (text,) = documents.values()
        cut = len(text) - round(len(text) * HELD_OUT)
        train, test = [text[:cut]], [text[cut:]]
    else:
        train, test = _split_files(documents)
    test_bytes = sum(map(len, test)) + len(test)  # an end-of-text mark counts as a byte
    return Corpus(name, _encode(train, tokenizer), _encode(test, tokenizer), test_bytes)


def _read(root: Path, pattern: str) -> dict[str, bytes]:
    """Text of each file, by its path below root; hidden and binary files are left out, and installed packages."""
    if not root.exists():
        raise RunError(f"no data at {root}: give a text file, or a folder of text files")
    paths = [root] if root.is_file() else sorted(path for path in root.rglob(pattern) if path.is_file())
    documents = {}
    for path in paths:
        below = path.relative_to(root)
        if any(part.startswith(".") or part == "site-packages" for part in below.parts):
            continue
        text = path.read_bytes()
        if text and END_OF_TEXT.encode() not in text:
            documents[str(below)] = text
    if not documents:
        raise RunError(f"no text in {root}: its files are empty, hidden or binary")
    return documents


def _split_files(documents: dict[str, bytes]) -> tuple[list[bytes], list[bytes]]:
    wanted = HELD_OUT * sum(map(len, documents.values()))
    by_hash = sorted(documents, key=lambda path: hashlib.sha256(path.encode()).digest())
    held_out: set[str] = set()
    for path in by_hash[:-1]:
        held_out.add(path)
        wanted -= len(documents[path])
        if wanted <= 0:
            break
    train = [text for path, text in documents.items() if path not in held_out]
    return train, [documents[path] for path in documents if path in held_out]


def _encode(documents: Iterable[bytes], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids of all documents, one after the other, each followed by the end-of-text id if the tokenizer has one."""
    if tokenizer.eos_token == END_OF_TEXT:  # ids are bytes
        return np.frombuffer(b"".join(text + END_OF_TEXT.encode() for text in documents), dtype=np.uint8)
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts = []
    for text in documents:
        lines = text.decode(errors="replace").splitlines(keepends=True)
        pieces = ["".join(lines[i : i + 1000]) for i in range(0, len(lines), 1000)]
        ids = tokenizer(pieces, add_special_tokens=False)["input_ids"]
        parts.append(np.fromiter((token for piece in [*ids, end] for token in piece), dtype=dtype))
    return np.concatenate(parts)
