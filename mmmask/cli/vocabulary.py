"""The verb that learns the words of captions."""

from __future__ import annotations

from pathlib import Path

from mmmask.errors import UserError
from mmmask.tokenizers.learning_words import WordKind


def vocabulary(
    shards: str,
    out: Path,
    field: str = "txt",
    part: str | None = None,
    size: int = 2000,
    kind: WordKind = "wordpiece",
    sentinels: int = 64,
    coordinates: int = 0,
    classes: Path | None = None,
    least: int = 1,
) -> None:
    """Learn the words of the texts of shards, write them as a file of the tokenizers library, and say how long the
    texts are in these words and how many are unknown.

    Args:
        shards: path or pattern of the shards.
        out: file to write, a .json.
        field: of the shards that holds the texts.
        part: entry of a JSON record that holds them, if the field is one.
        size: words, the special ones among them.
        kind: wordpiece (parts of words, for captions), bpe (pairs of bytes: any text can be written) or words (whole
            words, for discovery).
        sentinels: words that stand for gaps: one for every other word of a text, and one more.
        coordinates: values of v0=0, v0=1, ..., and of v1, v2 and v3, that are words: of boxes, records and palettes.
        classes: file with a name in each line, of which each is one word: those of boxes.
        least: of whole words, how often one occurs at least; rarer ones are unknown.
    """
    import numpy as np

    from datamodules import ShardSet
    from datamodules.texts import texts_of
    from mmmask.files import written_whole
    from mmmask.tokenizers import learn_words

    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} into: make it first.")
    names = [] if classes is None else _lines(classes)
    texts = texts_of(ShardSet(shards), field, part)
    words = learn_words(texts, size, kind, sentinels, coordinates, names, least)
    length = np.zeros(len(texts), dtype=np.int64)
    known = unknown = 0
    for row, text in enumerate(texts):
        found = words.encode(text, add_special_tokens=False)
        missing = {word for word, token in zip(found.word_ids, found.tokens, strict=True) if token == "[UNK]"}
        length[row], unknown = len(found), unknown + len(missing)
        known += len(set(found.word_ids)) - len(missing)
    with written_whole(out) as stream:
        stream.write(words.to_str(pretty=True).encode())
    special = {"sentinels": sentinels, "coordinates": 4 * coordinates, "classes": len(names)}
    told = ", ".join(f"{many:,} of them {what}" for what, many in special.items() if many)
    print(f"{out}: {words.get_vocab_size():,} words, {told}, from {len(texts):,} texts")
    print(f"unknown   {unknown / max(1, known + unknown):.2%} of the words of the texts")
    median, most, longest = np.quantile(length, [0.5, 0.95, 1.0], method="higher").tolist()
    print(f"length    median {median}, 95 % {most}, longest {longest} (sentinels suffice up to {2 * sentinels - 2})")


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the classes {path}: give a text file with a name in each line.") from error
