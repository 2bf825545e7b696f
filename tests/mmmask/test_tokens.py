"""Token sets: selected, blanked, joined, padded."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.modalities import Catalogue, Modality
from mmmask.tokens import BLANK, rows, tokens_of, vectors_of
from mmmask.transformer import TokenEmbedding


def test_selecting_takes_ids_and_positions_along():
    tokens = tokens_of(torch.tensor([[5, 6, 7], [8, 9, 4]]), modality=2)
    picked = tokens.select(torch.tensor([[2, 0], [1, 1]]))
    assert picked.ids.tolist() == [[7, 5], [9, 9]]
    assert picked.position.tolist() == [[2, 0], [1, 1]]
    assert picked.modality.tolist() == [[2, 2], [2, 2]]
    assert picked.valid is None


def test_blanking_touches_only_what_is_meant():
    tokens = tokens_of(torch.tensor([[5, 6, 7]]))
    index, valid = torch.tensor([[0, 2]]), torch.tensor([[True, False]])
    assert tokens.blank(index).ids.tolist() == [[BLANK, 6, BLANK]]
    assert tokens.blank(index, valid).ids.tolist() == [[BLANK, 6, 7]]
    assert tokens.ids.tolist() == [[5, 6, 7]]


def test_padding_is_not_valid_and_stays_so_when_joined_and_selected():
    tokens = tokens_of(torch.tensor([[5, 6]])).pad_to(4)
    joined = tokens_of(torch.tensor([[1]])).concat(tokens)
    assert joined.ids.tolist() == [[1, 5, 6, 0, 0]]
    assert joined.valid.tolist() == [[True, True, True, False, False]]
    assert joined.select(torch.tensor([[4, 1]])).valid.tolist() == [[False, True]]


def test_ids_and_vectors_are_embedded_in_one_set_as_apart():
    modalities = [Modality("image", 1, 4), Modality("text", 2, channels=3)]
    embedding = TokenEmbedding(modalities, 8)
    ids, vectors = tokens_of(torch.tensor([[1]])), vectors_of(torch.rand(1, 2, 3), 1)
    mixed = ids.concat(vectors)
    assert mixed.modality.tolist() == [[0, 1, 1]]
    apart = torch.cat([embedding(ids), embedding(vectors)], 1)
    torch.testing.assert_close(embedding(mixed), apart)
    some = torch.tensor([[2, 0]])
    torch.testing.assert_close(embedding(mixed.select(some)), rows(apart, some))


def test_vectors_of_two_sets_are_not_mixed_up():
    vectors = vectors_of(torch.rand(1, 2, 3), 1)
    assert len(vectors.concat(vectors.select(torch.tensor([[1]])))) == 3  # rows of the same values
    with pytest.raises(ValueError, match="lie in different rows"):
        vectors.concat(vectors_of(torch.rand(1, 2, 3), 1))


def test_rows_are_gathered_per_sample():
    x = torch.randn(2, 4, 3)
    index = torch.tensor([[3, 0], [1, 2]])
    assert torch.equal(rows(x, index), torch.stack([x[0, [3, 0]], x[1, [1, 2]]]))
    assert rows(x, index[:, :0]).shape == (2, 0, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Modality("rgb", 4), "either vocab_size"),
        (lambda: Modality("rgb", 4, 10, 3), "either vocab_size"),
        (lambda: Modality("rgb", 0, 10), "must be 1 or more"),
        (lambda: Modality("rgb", 4, 10, kind="cube"), "choose grid"),
        (lambda: Catalogue([Modality("a", 1, 2), Modality("a", 1, 2)]), "same name"),
        (lambda: Catalogue([Modality("a", 1, 2)])["b"], "no modality 'b' here, only a"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
