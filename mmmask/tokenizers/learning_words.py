"""Vocabularies of words, learnt from texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from mmmask.errors import UserError
from mmmask.tokenizers.text_vocabulary import CONTROL

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[SOS]", "[EOS]")
BYTES = 256  # words that pairs of bytes begin with
WordKind = Literal["wordpiece", "bpe", "words"]


def learn_words(
    texts: Iterable[str],
    size: int,
    kind: WordKind = "wordpiece",
    sentinels: int = 64,
    coordinates: int = 0,
    classes: Sequence[str] = (),
    least: int = 1,
) -> Tokenizer:
    """A vocabulary of at most `size` lower-case words of these texts, the special ones among them: parts of words
    (wordpiece), of which rare letters are unknown, pairs of bytes (bpe), or whole words (words), of which those are
    unknown that occur less than `least` times. The same texts give the same.

    Special are sentinels, so many `coordinates` v0=0, v0=1, ... and as many of v1, v2 and v3, and names of `classes`,
    which are one word each.
    """
    if kind not in WordKind.__args__:  # type: ignore[attr-defined]
        raise UserError(f"there is no vocabulary of kind '{kind}': choose wordpiece, bpe or words.")
    if least < 1 or (least > 1 and kind != "words"):
        raise UserError(f"least is {least}, how often a word occurs at least; give 1, or for kind words more.")
    special: list[str | AddedToken] = [*SPECIALS, *(f"[S_{number}]" for number in range(sentinels))]
    special += _whole_words(coordinates, classes)
    fewest = len(special) + (BYTES if kind == "bpe" else 0)
    if sentinels < 2 or size <= fewest:
        raise UserError(
            f"a vocabulary needs 2 or more sentinels and a size above {fewest}, got {sentinels} and {size}."
        )
    if kind == "words":
        return _common_words(texts, size, special, least)
    learn = _parts_of_words if kind == "wordpiece" else _pairs_of_bytes
    return learn(texts, size, special)


def _whole_words(coordinates: int, classes: Sequence[str]) -> list[AddedToken]:
    """Coordinates and classes, as 4M's vocabulary has them: no parts of longer words, classes in any case."""
    from tokenizers import AddedToken

    if coordinates < 0:
        raise UserError(f"a vocabulary has 0 or more coordinates, not {coordinates}.")
    for name in classes:
        if not name.strip() or CONTROL.fullmatch(name) or list(classes).count(name) > 1:
            raise UserError(f"a class is named '{name}': give names, each once, none of them empty or in brackets.")
    values = [f"v{which}={value}" for which in range(4) for value in range(coordinates)]
    return [
        *(AddedToken(value, single_word=True, normalized=False) for value in values),
        *(AddedToken(name, single_word=True, normalized=True) for name in classes),
    ]


def _parts_of_words(texts: Iterable[str], size: int, special: Sequence[str | AddedToken]) -> Tokenizer:
    """The library numbers letters within words in any order, and by numbers it settles ties: so they are given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer, words.decoder = (
        _lower(),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
    )
    texts = [words.normalizer.normalize_str(text) for text in texts]
    count = Counter(letter for text in texts for letter in text if not letter.isspace())
    most = max(1, (size - len(special)) // 4)  # a letter is two words
    letters = sorted(sorted(count, key=lambda letter: (-count[letter], letter))[:most])
    rare = str.maketrans(dict.fromkeys(count.keys() - set(letters), " "))
    given = [*special, *letters, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=given, show_progress=False)
    words.train_from_iterator((text.translate(rare) for text in texts), trainer)
    content = json.loads(words.to_str())
    content["added_tokens"] = content["added_tokens"][: len(special)]  # letters are words as others are
    return Tokenizer.from_str(json.dumps(content))


def _common_words(texts: Iterable[str], size: int, special: Sequence[str | AddedToken], least: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = _lower(), pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()  # no space before a comma
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=least, special_tokens=list(special), show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    return words


def _pairs_of_bytes(texts: Iterable[str], size: int, special: Sequence[str | AddedToken]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.normalizer, words.pre_tokenizer, words.decoder = _lower(), bytes_, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False, initial_alphabet=bytes_.alphabet()
    )
    words.train_from_iterator(texts, trainer)
    return words


def _lower() -> Any:
    from tokenizers import normalizers

    return normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
