"""The published families as configurations of the one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from mmmask.modalities import Modality
from mmmask.transformer.attention import Attention
from mmmask.transformer.block import Style
from mmmask.transformer.embedding import TokenEmbedding
from mmmask.transformer.masked_transformer import MaskedTransformer
from mmmask.transformer.placed_embedding import PlacedEmbedding, Places, Stem
from mmmask.transformer.stack import Stack


class AutoNAT(MaskedTransformer):
    """The U-ViT of AutoNAT (Ni et al. 2024): the context and all image tokens go through it together.

    The context is a class or, with `text_length`, so many text vectors of `text_channels` numbers. The defaults are
    AutoNAT-L on 256-pixel images.
    """

    def __init__(
        self,
        vocab_size: int = 1024,
        tokens: int = 256,
        classes: int = 1000,
        text_length: int = 0,
        text_channels: int = 1280,
        dim: int = 768,
        depth: int = 25,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
    ) -> None:
        image = Modality("image", tokens, vocab_size)
        context = Modality("class", 1, classes, kind="set")
        if text_length:
            context = Modality("text", text_length, channels=text_channels, kind="sequence")
        style = Style(mlp_ratio, qkv_bias=False)
        super().__init__(
            TokenEmbedding([image, context], dim, {"image": dropout}),
            Stack(0, dim, heads, style),
            Stack(depth, dim, heads, style, long_skips=True),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        _start_small(self)


class ENAT(MaskedTransformer):
    """ENAT (Ni et al. 2024): visible tokens are encoded alone and once, masked tokens read them.

    The defaults are ENAT-L on 256-pixel images.
    """

    def __init__(
        self,
        vocab_size: int = 1024,
        tokens: int = 256,
        classes: int = 1000,
        dim: int = 1024,
        encoder_depth: int = 22,
        decoder_depth: int = 2,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
    ) -> None:
        style = Style(mlp_ratio, gelu="tanh", norm_eps=1e-6, adaptive=True)
        super().__init__(
            TokenEmbedding([Modality("image", tokens, vocab_size)], dim, {"image": dropout}),
            Stack(encoder_depth, dim, heads, style, reads="read"),
            Stack(decoder_depth, dim, heads, style, reads="read"),
            mode="read",
            classes=classes,
        )
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if "modulation" in name:  # blocks begin as the identity
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        _start_small(self)


class FourM(MaskedTransformer):
    """4M (Mizrahi et al. 2023, Bachmann et al. 2024): known tokens of any modalities are encoded, asked ones of any
    read them.

    The defaults are the published base size; `mlp`, `bias` and `qk_norm` make its variants. Ours beside them:
    `word_std`, `answer_std`, `stem` and `places` (PlacedEmbedding) and `dropout`, for little data and short trainings.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        dim: int = 768,
        encoder_depth: int = 12,
        decoder_depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        mlp: Literal["gelu", "swiglu"] = "swiglu",
        bias: bool = False,
        qk_norm: bool = False,
        registers: int = 0,
        word_std: float = 0.02,
        answer_std: float = 0.02,
        stem: Stem = "linear",
        places: Places = "index",
        dropout: float = 0.0,
    ) -> None:
        modalities = [m if isinstance(m, Modality) else Modality(**m) for m in modalities]  # from a file they are dicts
        style = Style(mlp_ratio, qkv_bias=bias, norm_eps=1e-6, mlp=mlp, bias=bias, qk_norm=qk_norm, dropout=dropout)
        super().__init__(
            PlacedEmbedding(modalities, dim, word_std, answer_std, stem, places),
            Stack(encoder_depth, dim, heads, style),
            Stack(decoder_depth, dim, heads, style, reads="cross"),
            mode="cross",
            registers=registers,
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Attention):  # queries, keys and values, each by itself
                for part in (module.qkv if module.own else module.kv_memory).weight.split(dim):
                    nn.init.xavier_uniform_(part)


def _start_small(backbone: MaskedTransformer) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
