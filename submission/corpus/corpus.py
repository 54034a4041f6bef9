"""Builds a corpus without a download: texts of the Python installation or the machine, as tokens in Megatron's format.

Run as a process: `python -m submission.corpus.corpus --out DIR ..`. The hash of a document's name decides whether it
belongs to training or validation, so no document is in both; the tokenizer is trained on training documents only. The
same installation gives the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from harness.contract import file_names, typed_json
from harness.contract.token_records import CorpusManifest, Split

END_OF_DOCUMENT = 0
_VALIDATION_PERCENT = 5
_LEARNED_BYTES = 40_000_000  # text that the tokenizer is trained on
_ENCODED_AT_ONCE = 2000  # documents; an encoding takes many times the memory of its tokens
_TOPICS = "pydoc_data/topics.py"
# Tests repeat themselves, encodings and lib2to3 are generated tables or copies, site-packages is not Python's own.
_LEFT_OUT = {
    "test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "lib2to3",
    "lib-dynload", "turtledemo",
}  # fmt: skip
_WRITTEN = {".py", ".pyi", ".txt", ".md", ".rst", ".h", ".hpp", ".cuh", ".c", ".cc", ".cpp", ".cu"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Directories of texts, and the rules for choosing among them.

    Args:
        largest_file: bytes; longer files are skipped, they are tables and generated code.
        largest: bytes of the whole corpus.
    """

    roots: tuple[Path, ...]
    suffixes: frozenset[str]
    left_out: frozenset[str]  # names of directories to skip
    largest_file: int
    largest: int


def python(library: Path, *, largest: int = 6_000_000) -> Source:
    """The standard library: the same on every machine with this Python."""
    return Source(
        roots=(library,), suffixes=frozenset({".py", ".txt"}), left_out=frozenset(_LEFT_OUT), largest_file=largest,
        largest=largest,
    )  # fmt: skip


def machine(*, largest: int = 400_000_000) -> Source:
    """Source code and documentation on this machine: packages, headers, /usr/share/doc. It differs between machines."""
    found = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    roots = [Path(path) for path in (*found, "/usr/lib/python3", "/usr/include", "/usr/share/doc")]
    return Source(
        roots=tuple(dict.fromkeys(root.resolve() for root in roots if root.is_dir())),
        suffixes=frozenset(_WRITTEN),
        left_out=frozenset({"__pycache__"}),
        largest_file=400_000,
        largest=largest,
    )


@dataclass(frozen=True, slots=True)
class Document:
    name: str  # relative to its root, `/` separated
    text: str

    @property
    def validation(self) -> bool:
        return _rank(self.name) % 100 < _VALIDATION_PERCENT


def _rank(name: str) -> int:
    """A number that depends only on the name and is uniformly distributed over documents."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def documents(source: Source) -> list[Document]:
    """The documents of the corpus, sorted by name, without duplicates, at most `source.largest` bytes in total.

    Where that limit leaves documents out, the hash of the name decides: an alphabetical cut would lose whole packages.
    """
    seen: set[bytes] = set()
    kept: list[Document] = []
    size = 0
    for name, read in sorted(_candidates(source), key=lambda item: (_rank(item[0]), item[0])):
        text = read()
        length, digest = len(text.encode()), hashlib.sha256(text.encode()).digest()
        if text.strip() and digest not in seen and size + length <= source.largest:
            seen.add(digest)
            kept.append(Document(name, text))
            size += length
    return sorted(kept, key=lambda item: item.name)


def _candidates(source: Source) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names of documents with functions that read them; not the texts, which may not fit into memory."""
    for root in source.roots:
        for path in root.rglob("*"):
            name = path.relative_to(root).as_posix()
            generated = path.name.startswith("_sysconfigdata") or name.startswith("config-")
            if (
                generated
                or path.suffix not in source.suffixes
                or not source.left_out.isdisjoint(name.split("/"))
            ):
                continue
            if name == _TOPICS:
                yield from _topics(_text(path, source.largest_file))
            else:
                yield name, functools.partial(_text, path, source.largest_file)


def _text(path: Path, largest: int) -> str:
    """The text of a file; empty where it is too long, is not UTF-8 or is a broken link."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= largest else ""
    except (UnicodeDecodeError, OSError):
        return ""


def _topics(source: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """The language reference as pydoc shows it: one document per topic; the source file holds escaped strings."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for topic, text in ast.literal_eval(statement.value).items():
                yield f"pydoc_data/topics/{topic}.txt", functools.partial(str, text)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer, which can encode every text; token 0 ends a document."""
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
    tokenizer.encode_special_tokens = True  # the name of a special token inside a text is encoded as text
    return tokenizer


def write(prefix: Path, texts: list[str], tokenizer: Tokenizer, vocab_size: int) -> int:
    """Write `prefix`.bin and .idx with Megatron's own builder; returns the number of tokens."""
    with warnings.catch_warnings():
        # every module warns that Transformer Engine and Apex are not installed
        warnings.simplefilter("ignore")
        from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocab_size))
    tokens = 0
    for start in range(0, len(texts), _ENCODED_AT_ONCE):
        part = texts[start : start + _ENCODED_AT_ONCE]
        for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False):
            ids = [*encoding.ids, END_OF_DOCUMENT]
            builder.add_document(ids, [len(ids)])
            tokens += len(ids)
    builder.finalize(f"{prefix}.idx")
    return tokens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m submission.corpus.corpus", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an existing, empty directory")
    parser.add_argument("--vocab", type=int, required=True, help="tokens, end of document included")
    parser.add_argument("--of", choices=["python", "machine"], default="python", help="whose texts")
    parser.add_argument("--train-prefix", default="train")
    parser.add_argument("--valid-prefix", default="valid")
    args = parser.parse_args()
    source = machine() if args.of == "machine" else python(Path(sysconfig.get_path("stdlib")))
    corpus = documents(source)
    digest = hashlib.sha256()
    for document in corpus:
        digest.update(f"{document.name}\0{hashlib.sha256(document.text.encode()).hexdigest()}\n".encode())
    train = [document.text for document in corpus if not document.validation]
    valid = [document.text for document in corpus if document.validation]
    whose = "this machine" if args.of == "machine" else f"Python {sys.version.split()[0]}"
    print(f"corpus: {len(corpus)} documents of {whose}; tokenizer", file=sys.stderr)
    every = -(-sum(map(len, train)) // _LEARNED_BYTES)
    tokenizer = train_tokenizer(train[::every], args.vocab)
    tokenizer.save(str(args.out / file_names.TOKENIZER))
    splits: dict[str, Split] = {}
    for prefix, texts in ((args.train_prefix, train), (args.valid_prefix, valid)):
        print(f"corpus: {prefix}: {len(texts)} documents", file=sys.stderr)
        tokens = write(args.out / prefix, texts, tokenizer, args.vocab)
        splits[prefix] = Split(documents=len(texts), tokens=tokens)
    built = CorpusManifest(
        python=sys.version.split()[0],
        vocab_size=args.vocab,
        source_sha256=digest.hexdigest(),
        splits=splits,
    )
    print(json.dumps(typed_json.to_plain(built)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
