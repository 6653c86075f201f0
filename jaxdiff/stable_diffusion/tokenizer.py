"""CLIP's byte-pair tokenizer (Radford et al. 2021), from the folder of a pipeline."""

from collections.abc import Sequence
from logging import getLogger

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE

from jaxdiff import files

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # what is never merged with its neighbors
log = getLogger(__name__)


class Tokenizer:
    """Text to `length` integers: the beginning, at most length - 2 pieces of words, the end, and padding."""

    def __init__(self, pieces: tokenizers.Tokenizer, length: int, padding: str = END):
        self.pieces, self.length = pieces, length
        ids = {token: pieces.token_to_id(token) for token in (BEGIN, END, padding)}
        missing = [token for token, i in ids.items() if i is None]
        if missing:
            raise ValueError(f"the tokenizer's vocabulary lacks {missing[0]}; it is not CLIP's")
        self.begin, self.end, self.padding = ids[BEGIN], ids[END], ids[padding]

    @classmethod
    def load(cls, folder: epath.PathLike, length: int = 77) -> "Tokenizer":
        """From tokenizer.json, or from vocab.json and merges.txt. Raises ValueError where the folder has neither."""
        folder = epath.Path(folder)
        whole, parts = (
            folder / "tokenizer.json",
            [folder / name for name in ("vocab.json", "merges.txt")],
        )
        if not whole.exists() and not all(part.exists() for part in parts):
            raise ValueError(
                f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt"
            )
        try:
            pieces = (
                tokenizers.Tokenizer.from_str(whole.read_text())
                if whole.exists()
                else _from_merges(files.read_json(parts[0]), parts[1].read_text())
            )
            pieces.no_truncation()
            pieces.no_padding()
            return cls(pieces, length, _padding(folder))
        except Exception as error:  # what the library raises is an Exception
            why = " ".join(str(error).split())
            raise ValueError(
                f"{folder} has no tokenizer that can be read ({why}); get its files again"
            ) from None

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "text token"]:
        """int32 [text, length]. A text that is longer is cut, and a warning says what is left of it."""
        rows = []
        for text in texts:
            encoded = self.pieces.encode(text, add_special_tokens=False)
            kept = encoded.ids[: self.length - 2]
            if len(kept) < len(encoded.ids):
                seen = text[: encoded.offsets[len(kept) - 1][1]]
                log.warning(
                    "a prompt of %d tokens is cut to %d, after ...%s",
                    len(encoded.ids) + 2,
                    self.length,
                    seen[-40:],
                )
            row = [self.begin, *kept, self.end]
            rows.append(row + [self.padding] * (self.length - len(row)))
        return np.array(rows, np.int32).reshape(len(rows), self.length)


def _from_merges(vocabulary: dict[str, int], merges: str) -> tokenizers.Tokenizer:
    """Lower case, single spaces, words split from each other, then bytes merged in the order of the list."""
    pairs = [
        tuple(line.split())
        for line in merges.splitlines()
        if line.strip() and not line.startswith("#version")
    ]
    pieces = tokenizers.Tokenizer(
        BPE(
            vocabulary,
            pairs,  # type: ignore[arg-type]
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=END,
        )
    )
    pieces.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    pieces.add_special_tokens([token for token in (BEGIN, END) if token in vocabulary])
    return pieces


def _padding(folder: epath.Path) -> str:
    """What fills a text up: its end, unless the folder's own files say otherwise."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            token = files.read_json(folder / name).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token:
                return token
    return END
