"""Models of transformers in folders, as `save_pretrained` or a download of the Hub leaves them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from mmmask.errors import UserError

DAMAGED = (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)


@contextmanager
def reading(folder: object, what: str, beside: str = "") -> Iterator[None]:
    """Meanwhile transformers does not list weights that are not used; what cannot be read is told in a sentence."""
    from transformers.utils import logging  # slow to import

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except DAMAGED as error:
        raise UserError(
            f"{folder} holds no {what} ({beginning(error)}): download one there{beside}, as safetensors."
        ) from error
    finally:
        logging.set_verbosity(before)


def beginning(error: Exception) -> str:
    """Of what an error says."""
    return " ".join(str(error).split())[:200].rstrip(".")
