"""Tiny tokenizers of every encoder-decoder family, written as checkpoints that transformers loads."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    BartTokenizer,
    BlenderbotTokenizer,
    ByT5Tokenizer,
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    NllbTokenizer,
    PegasusTokenizer,
    PLBartTokenizer,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from precast.compiler.frontend.checkpoint import Checkpoint

_WORDS = [
    "the", "cat", "sat", "on", "a", "mat", ",", "while", "dogs", "weren't", "barking", "at", "night", "under",
    "pale", "moonlight", "!", "l'été", "où", "être", "naïve", "12", "3.5", "Straße", "grün", "schön", "?",
    "they", "'ve", "been", "we're", "I", "'m",
]  # fmt: skip
_ODD = (" ", "  ", "\t", "\n", "▁", "漢", "字", "字漢", "🙂", "e\u0301", "ﬁ", "Ａ", "\u200b", "\xa0", "x")
_SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", "<mask>", ">>", "<<", ">>fra<<", ">>deu<<", ">>zz<<", "__en__")
SNIPPETS = (*_WORDS, *_ODD, *_SPECIAL)
"""Texts that some tokenizer treats specially, to be joined at random."""


def _lines() -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(_WORDS, k=9)) + "." for _ in range(400)]


def checkpoint(folder: Path) -> Checkpoint:
    """``folder`` as an opened checkpoint."""
    return Checkpoint(str(folder), folder, folder, BartConfig())


def sentencepiece_model(kind: str, path: Path) -> list[str]:
    """Train and write a model of about 150 pieces; returns those that are not special."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_lines()), model_writer=out, vocab_size=150, model_type=kind,
        hard_vocab_limit=False, minloglevel=2
    )  # fmt: skip
    path.write_bytes(out.getvalue())
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    return [model.id_to_piece(number) for number in range(3, model.get_piece_size())]


def _write_vocabulary(path: Path, pieces: list[str]) -> None:
    path.write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}), "utf-8")


def marian(folder: Path, *codes: str) -> None:
    """Write a Marian tokenizer: vocabulary and SentencePiece model each lack some pieces of the other."""
    pieces = sentencepiece_model("unigram", folder / "source.spm")
    (folder / "target.spm").write_bytes((folder / "source.spm").read_bytes())
    random.Random(1).shuffle(pieces)
    foreign = ["漢", "字漢", "▁extern", "x漢", "<s>"]
    _write_vocabulary(folder / "vocab.json", ["</s>", "<unk>", *pieces[:-15], *foreign, *codes, "<pad>"])
    config = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "fr"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def marian_of_many(folder: Path) -> None:
    """Write the tokenizer of a Marian model with several target languages."""
    marian(folder, ">>fra<<", ">>deu<<")


def _m2m100(kind: str, special: list[str]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pieces = sentencepiece_model(kind, folder / "sentencepiece.bpe.model")
        _write_vocabulary(folder / "vocab.json", ["<s>", "<pad>", "</s>", "<unk>", *pieces[:-9], "▁extern"])
        M2M100Tokenizer(
            folder / "vocab.json", folder / "sentencepiece.bpe.model", additional_special_tokens=[*special]
        ).save_pretrained(folder)

    return write


def _plbart(codes: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "sentencepiece.bpe.model"
        sentencepiece_model("unigram", path)
        PLBartTokenizer(str(path), language_codes=codes).save_pretrained(folder)

    return write


def _unigram() -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(_lines(), trainers.UnigramTrainer(vocab_size=120, show_progress=False))
    return [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]


def _from_unigram(
    make: Callable[..., Any], *special: str, rest: tuple[str, ...] = (), **options: Any
) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        vocabulary = [(token, 0.0) for token in special] + _unigram() + [(token, 0.0) for token in rest]
        make(vocab=vocabulary, **options).save_pretrained(folder)

    return write


def _from_bpe(make: Callable[..., Any], pre_tokenizer: Any, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizer
        alphabet = [] if make is NllbTokenizer else pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            _lines(),
            trainers.BpeTrainer(
                vocab_size=420, show_progress=False, initial_alphabet=alphabet,
                special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
            ),
        )  # fmt: skip
        model = json.loads(tokenizer.to_str())["model"]
        merges = [tuple(merge) for merge in model["merges"]]
        make(vocab=model["vocab"], merges=merges, **options).save_pretrained(folder)

    return write


def _byte_fallback(strips: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        byte_pieces = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
        tokenizer = Tokenizer(models.Unigram([*special, *byte_pieces, *_unigram()], 2, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
            clean_up_tokenization_spaces=strips
        ).save_pretrained(folder)  # fmt: skip

    return write


_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
_T5 = ("<pad>", "</s>", "<unk>")

WRITERS: dict[str, Callable[[Path], None]] = {
    "t5": _from_unigram(T5Tokenizer, *_T5),
    "t5-clean": _from_unigram(T5Tokenizer, *_T5, clean_up_tokenization_spaces=True),
    "pegasus": _from_unigram(PegasusTokenizer, "<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>"),
    "mbart": _from_unigram(MBartTokenizer, *_FAIRSEQ, rest=("en_XX", "de_DE", "<mask>")),
    "mbart-50": _from_unigram(MBart50Tokenizer, *_FAIRSEQ, rest=("en_XX", "de_DE", "<mask>")),
    "nllb": _from_bpe(NllbTokenizer, pre_tokenizers.Metaspace(), src_lang="deu_Latn"),
    "nllb-legacy": _from_bpe(NllbTokenizer, pre_tokenizers.Metaspace(), legacy_behaviour=True),
    "bart": _from_bpe(BartTokenizer, pre_tokenizers.ByteLevel(), clean_up_tokenization_spaces=True),
    "blenderbot": _from_bpe(BlenderbotTokenizer, pre_tokenizers.ByteLevel()),
    "byte-fallback": _byte_fallback(strips=False),
    "byte-fallback-strip": _byte_fallback(strips=True),
    "byt5": lambda folder: ByT5Tokenizer().save_pretrained(folder) and None,
    "marian": marian,
    "marian-many": marian_of_many,
    "m2m100": _m2m100("unigram", []),
    "m2m100-bpe": _m2m100("bpe", [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]),
    "plbart": _plbart("base"),
    "plbart-multi": _plbart("multi"),
}
"""Functions that write the tokenizer of a family to a folder."""
