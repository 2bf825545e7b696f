"""Tokens of 4M's modalities as they are: checked, known by the length and vocabulary of its catalogue."""

import numpy as np
import pytest
import torch

from mmmask.catalogue import KNOWN
from mmmask.errors import UserError
from mmmask.tokenizers import PublishedTokens

CLIP = PublishedTokens("tok_clip@224", source="clip")


def test_the_modality_is_that_of_the_catalogue_under_a_name_of_ones_own():
    modality = CLIP.modality("looks")
    assert (modality.name, modality.length, modality.vocab_size, modality.kind) == ("looks", 196, 8192, "grid")
    assert PublishedTokens("tok_dinov2_global").modality("tok_dinov2_global") == KNOWN["tok_dinov2_global"]


def test_ids_come_back_and_those_of_minus_one_are_absent():
    ids = torch.randint(8192, (3, 14, 14), generator=torch.Generator().manual_seed(0))
    ids[1] = -1
    data = CLIP.encode(ids)
    assert data.length.tolist() == [196, 0, 196]
    assert torch.equal(CLIP.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length)), ids.flatten(1))


def test_vectors_of_a_text_end_where_there_are_none():
    codec, vectors = PublishedTokens("t5_caption"), torch.randn(2, 5, 4096)
    vectors[0, 3:], vectors[1] = torch.nan, torch.nan
    data = codec.encode(vectors)
    assert data.length.tolist() == [3, 0]
    assert torch.equal(data.values[0, :3], vectors[0, :3])
    assert not data.values.isnan().any()
    assert codec.modality("t5_caption") == KNOWN["t5_caption"]


def test_one_sample_may_be_typed_as_a_file_and_is_shown_as_its_ids(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(196))
    raw = CLIP.typed(str(tmp_path / "ids.npy"))
    assert CLIP.encode(raw).length.tolist() == [196]
    assert CLIP.seen(raw)[0].startswith("0 1 2 3 ")
    with pytest.raises(UserError, match="is no .npy file"):
        CLIP.typed(str(tmp_path / "none.npy"))


def test_what_is_no_such_token_is_told():
    for make, message in (
        (lambda: PublishedTokens("tok_clip"), "no modality 'tok_clip'. Did you mean 'tok_clip@"),
        (lambda: PublishedTokens("caption"), "take Words"),
        (lambda: PublishedTokens("rgb@224"), "take Patches"),
        (lambda: CLIP.encode(torch.zeros(1, 100, dtype=torch.long)), r"are 196 ids, not int64 \(100,\)"),
        (lambda: CLIP.encode(torch.full((1, 196), 8192)), "8192 is none of the 8192 ids"),
        (lambda: PublishedTokens("t5_caption").encode(torch.zeros(1, 5, 8)), "up to 77 vectors of 4096 numbers"),
    ):
        with pytest.raises(UserError, match=message):
            make()
