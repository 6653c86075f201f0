"""CLIP's byte-pair tokenizer (Radford et al. 2021), from the folder of a pipeline."""

from collections.abc import Mapping, Sequence
from logging import getLogger

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE

from jaxdiff import files

BEGIN = "<|startoftext|>"
END = "<|endoftext|>"
# Pieces of text that are never merged with their neighbors.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
TOKEN_OPTIONS = ("lstrip", "rstrip", "single_word", "normalized", "special")
log = getLogger(__name__)


class Tokenizer:
    """Text to tokens: the beginning, at most length - 2 pieces of words, the end, and padding.

    Parameters
    ----------
    pieces
        The tokenizer of the tokenizers package, without truncation and padding.
    length
        Tokens of a text.
    padding
        The token that fills a text up.

    Raises
    ------
    ValueError
        Where the vocabulary lacks a token that CLIP's has.
    """

    def __init__(self, pieces: tokenizers.Tokenizer, length: int, padding: str = END):
        self.pieces = pieces
        self.length = length
        self.begin = self._find_id(BEGIN)
        self.end = self._find_id(END)
        self.padding = self._find_id(padding)

    @classmethod
    def load(cls, folder: epath.PathLike, length: int = 77) -> "Tokenizer":
        """Load tokenizer.json, or vocab.json and merges.txt.

        Raises
        ------
        ValueError
            Where the folder has neither, and where they cannot be read.
        """
        folder = epath.Path(folder)
        single = folder / "tokenizer.json"
        vocabulary = folder / "vocab.json"
        merges = folder / "merges.txt"
        if not single.exists() and not (vocabulary.exists() and merges.exists()):
            raise ValueError(
                f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
            )
        try:
            if single.exists():
                pieces = tokenizers.Tokenizer.from_str(single.read_text())
            else:
                pieces = _build_from_merges(files.read_json(vocabulary), merges.read_text())
            _add_tokens(pieces, folder)
            pieces.no_truncation()
            pieces.no_padding()
            return cls(pieces, length, _find_padding(folder))
        except Exception as error:  # the library raises no narrower class
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{folder} has no tokenizer that can be read ({reason}); get its files again"
            ) from None

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.pieces.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "text token"]:
        """Tokens int32 [text, length]. A longer text is cut, with a warning that shows its end."""
        rows = [self._encode(text) for text in texts]
        return np.array(rows, np.int32).reshape(len(rows), self.length)

    def _encode(self, text: str) -> list[int]:
        encoded = self.pieces.encode(text, add_special_tokens=False)
        ids = encoded.ids[: self.length - 2]
        if len(ids) < len(encoded.ids):
            remaining = text[: encoded.offsets[len(ids) - 1][1]]
            log.warning(
                "a prompt of %d tokens is cut to %d, after ...%s",
                len(encoded.ids) + 2,
                self.length,
                remaining[-40:],
            )
        row = [self.begin, *ids, self.end]
        return row + [self.padding] * (self.length - len(row))

    def _find_id(self, token: str) -> int:
        index = self.pieces.token_to_id(token)
        if index is None:
            raise ValueError(f"the tokenizer's vocabulary lacks {token}; it is not CLIP's")
        return index


def _build_from_merges(vocabulary: Mapping[str, int], merges: str) -> tokenizers.Tokenizer:
    """Lower case, single spaces, words split, then bytes merged in the order of the list."""
    lines = [line for line in merges.splitlines() if line.strip()]
    pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
    model = BPE(
        dict(vocabulary),
        pairs,  # type: ignore[arg-type]
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        unk_token=END,
    )
    pieces = tokenizers.Tokenizer(model)
    single_spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    pieces.normalizer = normalizers.Sequence(
        [normalizers.NFC(), single_spaces, normalizers.Lowercase()]
    )
    # Inverted: what matches is a word, and what lies between words is removed.
    split_words = pre_tokenizers.Split(tokenizers.Regex(WORDS), "removed", invert=True)
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [split_words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    pieces.add_special_tokens([token for token in (BEGIN, END) if token in vocabulary])
    return pieces


def _add_tokens(pieces: tokenizers.Tokenizer, folder: epath.Path) -> None:
    """Add the tokens that a folder names beside its vocabulary, as textual inversions do."""
    tokens: dict[int, tokenizers.AddedToken] = {}
    path = folder / "added_tokens.json"
    if path.exists():
        for content, index in files.read_json(path).items():
            tokens[int(index)] = tokenizers.AddedToken(content)
    path = folder / "tokenizer_config.json"
    if path.exists():
        decoder = files.read_json(path).get("added_tokens_decoder", {})
        for index, fields in decoder.items():
            options = {key: fields[key] for key in TOKEN_OPTIONS if key in fields}
            tokens[int(index)] = tokenizers.AddedToken(fields["content"], **options)
    for index, token in sorted(tokens.items()):
        if pieces.token_to_id(token.content) != index:
            pieces.add_tokens([token])
        if pieces.token_to_id(token.content) != index:
            raise ValueError(
                f"the added token {token.content} must have the number {index}, got "
                f"{pieces.token_to_id(token.content)}"
            )


def _find_padding(folder: epath.Path) -> str:
    """The token that fills a text up: its end, unless the folder's own files name another."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).exists():
            continue
        token = files.read_json(folder / name).get("pad_token")
        if isinstance(token, Mapping):
            token = token.get("content")
        if token:
            return token
    return END
