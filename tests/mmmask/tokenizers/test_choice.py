"""Names of a closed list as numbers, and back."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.tokenizers import Choice

SEASONS = Choice(["Fall", "Spring", "Summer", "Winter"])


def test_names_come_back_and_no_name_is_absent():
    names = ["Winter", "", "Fall", None]
    data = SEASONS.encode(names)
    assert data.ids.tolist() == [[3], [0], [0], [0]]
    assert data.length.tolist() == [1, 0, 1, 0]
    assert SEASONS.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length)) == ["Winter", "", "Fall", ""]


def test_labels_are_numbers_of_names():
    data = SEASONS.encode(torch.tensor([2, -1, 0]))
    assert data.ids.tolist() == [[2], [0], [0]]
    assert data.length.tolist() == [1, 0, 1]


def test_it_is_a_set_of_one():
    modality = SEASONS.modality("season")
    assert (modality.name, modality.kind, modality.length, modality.vocab_size) == ("season", "set", 1, 4)


def test_unknown_names_and_numbers_are_told():
    with pytest.raises(UserError, match="'Sprig' is none of Fall, .* Did you mean 'Spring'?"):
        SEASONS.encode(["Sprig"])
    with pytest.raises(UserError, match="there are 4 names.*up to 4"):
        SEASONS.encode(torch.tensor([1, 4]))
    with pytest.raises(UserError, match="each once"):
        Choice(["a", "a"])
