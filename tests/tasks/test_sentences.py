"""What torch and Lightning complain of becomes a sentence that says what to do."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mmmask.errors import RunFailed, UserError
from tasks.sentences import lightning_sentences


def test_no_memory_names_what_to_make_smaller():
    with pytest.raises(RunFailed, match="out of memory. Make data.batch_size smaller"), lightning_sentences():
        torch.empty(10**15)
    with pytest.raises(RunFailed, match="out of memory"), lightning_sentences():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_silence_of_another_rank_is_named():
    text = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5000"
    with pytest.raises(RunFailed, match="another rank is gone. The run ends"), lightning_sentences():
        raise RuntimeError(text)


def test_a_refusal_is_a_mistake_and_a_bug_stays_a_bug():
    with pytest.raises(UserError, match="the trainer refuses: no such thing."), lightning_sentences():
        raise MisconfigurationException("no such\n thing")
    for bug in (RuntimeError("a bug"), ValueError("a bug"), TypeError("a bug")):
        with pytest.raises(type(bug), match="a bug"), lightning_sentences():
            raise bug
