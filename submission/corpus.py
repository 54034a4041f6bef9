"""The proxy's corpus: the text every Python installation carries, as tokens in Megatron's indexed format.

Run as a process: `python -m submission.corpus --out DIR ..`. Training documents alone teach the tokenizer, and the hash
of a document's name says whether it is validation, so the two never share one. The same installation gives the same
bytes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_DOCUMENT = 0
_LARGEST_BYTES = 6_000_000
_VALIDATION_PERCENT = 5
_TOPICS = "pydoc_data/topics.py"
# Tests repeat themselves, encodings and lib2to3 are generated tables or copies, site-packages is not Python's own.
_LEFT_OUT = {
    "test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "lib2to3",
    "lib-dynload", "turtledemo",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Document:
    name: str  # relative to the standard library, `/` separated
    text: str

    @property
    def rank(self) -> int:
        """A number that depends on the name alone, uniform over the documents."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big")

    @property
    def validation(self) -> bool:
        return self.rank % 100 < _VALIDATION_PERCENT


def documents(library: Path, *, largest_bytes: int = _LARGEST_BYTES) -> list[Document]:
    """The documents of the corpus in order of their names: each content once, at most `largest_bytes` together.

    Which ones a cap leaves out follows the hash of the name: an alphabetical cut would lose whole packages.
    """
    seen: set[str] = set()
    kept: list[Document] = []
    size = 0
    for document in sorted(_candidates(library), key=lambda item: (item.rank, item.name)):
        length = len(document.text.encode())
        if document.text.strip() and document.text not in seen and size + length <= largest_bytes:
            seen.add(document.text)
            kept.append(document)
            size += length
    return sorted(kept, key=lambda item: item.name)


def _candidates(library: Path) -> Iterator[Document]:
    for path in library.rglob("*"):
        name = path.relative_to(library).as_posix()
        generated = path.name.startswith("_sysconfigdata") or name.startswith("config-")
        if generated or path.suffix not in (".py", ".txt") or not _LEFT_OUT.isdisjoint(name.split("/")):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # another encoding, or a link to nowhere
            continue
        if name == _TOPICS:
            yield from _topics(text)
        else:
            yield Document(name, text)


def _topics(source: str) -> Iterator[Document]:
    """The language reference as pydoc shows it: one document per topic instead of one of escaped strings."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for topic, text in ast.literal_eval(statement.value).items():
                yield Document(f"pydoc_data/topics/{topic}.txt", text)


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: every text can be encoded, token 0 ends a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # a text that spells the special token is text
    return tokenizer


def write(prefix: Path, texts: list[str], tokenizer: Tokenizer, vocab_size: int) -> int:
    """Write `prefix`.bin and .idx with Megatron's own builder; returns the number of tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Transformer Engine and Apex are not installed, says every module
        from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocab_size))
    tokens = 0
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = [*encoding.ids, END_OF_DOCUMENT]
        builder.add_document(ids, [len(ids)])
        tokens += len(ids)
    builder.finalize(f"{prefix}.idx")
    return tokens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m submission.corpus", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an existing, empty directory")
    parser.add_argument("--vocab", type=int, required=True, help="tokens, end of document included")
    parser.add_argument("--train-prefix", default="train")
    parser.add_argument("--valid-prefix", default="valid")
    args = parser.parse_args()
    corpus = documents(Path(sysconfig.get_path("stdlib")))
    digest = hashlib.sha256()
    for document in corpus:
        digest.update(f"{document.name}\0{hashlib.sha256(document.text.encode()).hexdigest()}\n".encode())
    train = [document.text for document in corpus if not document.validation]
    valid = [document.text for document in corpus if document.validation]
    print(f"corpus: {len(corpus)} documents of Python {sys.version.split()[0]}; tokenizer", file=sys.stderr)
    tokenizer = train_tokenizer(train, args.vocab)
    tokenizer.save(str(args.out / "tokenizer.json"))
    facts = {"python": sys.version.split()[0], "vocab_size": args.vocab, "source_sha256": digest.hexdigest()}
    splits = {}
    for prefix, texts in ((args.train_prefix, train), (args.valid_prefix, valid)):
        print(f"corpus: {prefix}: {len(texts)} documents", file=sys.stderr)
        tokens = write(args.out / prefix, texts, tokenizer, args.vocab)
        splits[prefix] = {"documents": len(texts), "tokens": tokens}
    print(json.dumps({**facts, "splits": splits}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
