"""A mean of the old rows whose tokens mean the same in another language's word vectors: WECHSEL."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from surgeon.errors import SurgeonError
from surgeon.progress import Progress
from surgeon.vocab.hull import Combination
from surgeon.vocab.static_vectors import Missing, capped, mixed, nearest
from surgeon.vocab.tokenizer_json import TokenizerFile
from surgeon.vocab.tokens import NewTokens
from surgeon.vocab.vec_file import read_dictionary, read_vec
from surgeon.vocab.word_spans import piece_bytes
from surgeon.vocab.word_vectors import by_own_encoding, by_text, rotation, turned

HULL = True
BATCH_INDEPENDENT = False  # the last bits of a matrix product depend on its size
READS_TEXT = True
_BEGINNING = partial(read_vec, max_words=1)
OPENS = {"source_vectors": _BEGINNING, "target_vectors": _BEGINNING, "dictionary": read_dictionary}


def wechsel(
    new: NewTokens,
    old_file: TokenizerFile,
    progress: Progress,
    *,
    source_vectors: Path,
    target_vectors: Path,
    dictionary: Path | None = None,
    neighbours: int = 10,
    temperature: float = 0.1,
    max_words: int | None = None,
    missing: Missing = "subword_mean",
    max_tokens: int = 1_000_000,
) -> Combination:
    """softmax(cos / temperature) over the nearest usable old tokens, in word vectors of the old and the new language.

    source_vectors, target_vectors: files of word2vec's text format (fastText's .vec), of each the first `max_words`.
    dictionary: pairs `source target`, by which the source space is rotated onto the target's (orthogonal Procrustes);
    None: the spaces are aligned already. A token's vector is the frequency-weighted mean of the words that hold it,
    as the paper's code has it for vectors that know no n-grams: new tokens by the words they stand in in the first
    `max_tokens` of the target text, old tokens by the words of the source file, the word at rank r counting 1 / r,
    because the file holds no counts. The paper's results use fastText's n-grams instead, which only its .bin files
    hold. A token without a vector gets the mean of its pieces (`missing`), in the paper a draw from N(mean, sd).
    Float64.
    Source: Minixhofer, Paischer and Rekabsaz 2022, WECHSEL, arXiv 2112.06598, section 3.
    """
    weigh = nearest(neighbours, temperature)
    source, target = read_vec(source_vectors, max_words), read_vec(target_vectors, max_words)
    if source.vectors.shape[1] != target.vectors.shape[1]:
        raise SurgeonError(
            f"{source.vectors.shape[1]} dimensions here, {target.vectors.shape[1]} in {target_vectors}",
            str(source_vectors),
            "give vectors of equally many dimensions",
        )
    old_space = by_own_encoding(source, old_file, progress)
    if dictionary is not None:
        turn_SS, num_pairs = rotation(source, target, read_dictionary(dictionary))
        progress.say(f"wechsel: {num_pairs} pairs align {source.vectors.shape[1]} dimensions")
        old_space = turned(old_space, turn_SS)
    text = capped(new.text("wechsel"), max_tokens)
    new_space = by_text(target, piece_bytes(old_file, new), set(new.ids), text)
    return mixed("wechsel", new, old_space, new_space, weigh, missing, progress)
