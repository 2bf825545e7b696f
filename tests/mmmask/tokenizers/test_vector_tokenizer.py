"""Vectors to a few tokens and back."""

import pytest
import torch
import torch.nn.functional as F

from mmmask.errors import UserError
from mmmask.tokenizers import CosineQuantizer, EuclideanQuantizer, Features, Vectors, VectorTokenizer

WORDS = 16


def clustered(count, seed=0):
    """Vectors of 256 clusters: a centre out of 16 for each half of their numbers, and a little noise."""
    centres = torch.randn(2, WORDS, 8, generator=torch.Generator().manual_seed(7))
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(WORDS, (count, 2), generator=draw)
    return torch.cat([centres[0, which[:, 0]], centres[1, which[:, 1]]], 1) + 0.05 * torch.randn(
        count, 16, generator=draw
    )


def small(tokens=2, **settings):
    torch.manual_seed(0)
    settings = {"channels": 16, "width": 64, "content": Features("mse")} | settings
    return VectorTokenizer(CosineQuantizer(WORDS, 8), tokens=tokens, **settings)


def train(tokenizer, steps, batch=128):
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-2)
    for step in range(steps):
        data = clustered(batch, seed=step + 1)
        output, _, loss = tokenizer(data)
        optimizer.zero_grad()
        (tokenizer.content.loss(output, data) + loss).backward()
        optimizer.step()
    return tokenizer.eval()


def left_by_one_code_book(data):
    """What the nearest of as many centres leaves: Lloyd's algorithm."""
    torch.manual_seed(0)
    centres = data[torch.randperm(len(data))[:WORDS]]
    for _ in range(30):
        nearest = torch.cdist(data, centres).argmin(1)
        centres = torch.stack(
            [data[nearest == n].mean(0) if (nearest == n).any() else centres[n] for n in range(WORDS)]
        )
    return F.mse_loss(centres[torch.cdist(data, centres).argmin(1)], data)


@pytest.mark.parametrize("shared", [False, True])
def test_several_tokens_keep_far_more_than_one_of_the_same_vocabulary_can(shared):
    data = clustered(500)
    tokenizer = train(small(shared=shared), 300)
    error = F.mse_loss(tokenizer.decode(tokenizer.encode(data)), data)
    assert error < left_by_one_code_book(data) / 2
    assert error < data.var() / 3


def test_decoding_the_encoded_ids_gives_the_forward_pass():
    tokenizer, data = train(small(tokens=3), 2), clustered(50)
    vectors, ids, _ = tokenizer(data)
    assert tokenizer.encode(data).equal(ids)
    assert ids.shape == (50, 3)
    torch.testing.assert_close(tokenizer.decode(ids), vectors)


def test_each_token_has_a_code_book_of_its_own_unless_they_share_one():
    own, shared = train(small(), 3), train(small(shared=True), 3)
    assert not own.quantizers[0].codebook.equal(own.quantizers[1].codebook)
    assert len(shared.quantizers) == 1


def test_a_loaded_state_gives_the_same_tokens():
    tokenizer, data = train(small(), 3), clustered(50)
    other = small(width=64)
    other.load_state_dict(tokenizer.state_dict())
    assert other.encode(data).equal(tokenizer.encode(data))


def test_wrong_shapes_and_sizes_are_named():
    with pytest.raises(UserError, match=r"shape \(8,\), expected \(16,\)"):
        small().encode(torch.rand(2, 8))
    with pytest.raises(UserError, match=r"expected \(B, 2\)"):
        small().decode(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(UserError, match="must be 1 or more"):
        small(tokens=0)


def test_as_a_modality_vectors_are_a_few_words_and_stay_absent_where_they_are():
    codec, data = Vectors(train(small(), 3), source="embedding"), clustered(4)
    modality = codec.modality("clip")
    assert (modality.kind, modality.length, modality.vocab_size) == ("vector", 2, WORDS)
    data[1] = torch.nan
    found = codec.encode(data)
    assert found.length.tolist() == [2, 0, 2, 2]
    ids = codec.tokenizer.encode(data[[0, 2, 3]])
    assert (found.ids[[0, 2, 3]] == ids.numpy()).all()
    decoded = codec.decode(torch.from_numpy(found.ids), torch.from_numpy(found.length))
    torch.testing.assert_close(decoded[[0, 2, 3]], codec.tokenizer.decode(ids))
    assert decoded[1].isnan().all()
    assert (codec.encode(ids).ids == ids.numpy()).all()


def test_euclidean_codes_work_as_well():
    torch.manual_seed(0)
    tokenizer = train(VectorTokenizer(EuclideanQuantizer(WORDS, 4), 16, 2, 64, content=Features("mse")), 200)
    data = clustered(500)
    assert F.mse_loss(tokenizer.decode(tokenizer.encode(data)), data) < left_by_one_code_book(data)
