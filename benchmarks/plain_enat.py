"""ENAT as its paper tells it, written down without a thought for speed: what `synthesis_speed.py` compares with.

Two separate branches for guidance, boolean gathers, the head on all positions, attention in the open, shifts and
scales computed anew in each block of each step, a whole pass of the average model to simulate reuse. It uses the
weights of our `ImageGenerator`, and draws the same images.
"""

import math

import torch
import torch.nn.functional as F

from mmmask.tokens import BLANK


class PlainENAT:
    """The published forward pass over the weights of `model`."""

    def __init__(self, model):
        self.model, backbone = model, model.backbone
        self.blocks, self.split = [*backbone.encoder.blocks, *backbone.decoder.blocks], len(backbone.encoder.blocks)
        self.words, self.length = model.modality.vocab_size, model.modality.length

    def __call__(self, ids, classes, earlier=None):
        """Logits `(B, L, V)` of all positions, and what the next step needs; masked ids are BLANK."""
        backbone = self.model.backbone
        masked = ids == BLANK
        x = self.embed(ids)
        c = backbone.classes.weight[torch.where(classes == BLANK, len(backbone.classes.weight) - 1, classes)]
        batch, _, dim = x.shape
        if earlier is None:
            new, old = ~masked, torch.zeros_like(masked)
            reused = x.new_zeros(batch, 0, dim)
        else:
            features, masked_before = earlier
            new, old = ~masked & masked_before, ~masked_before
            reused = features[old].view(batch, -1, dim)
            reused = reused + self.mlp(backbone.reuse.mlp, backbone.reuse.norm(reused))
        visible = x[new].view(batch, -1, dim)
        if visible.shape[1]:
            for block in self.blocks[: self.split]:
                visible = self.block(block, visible, reused, c)
        features = torch.zeros_like(x)
        features[new], features[old] = visible.flatten(0, 1), reused.flatten(0, 1)
        known, asked = features[~masked].view(batch, -1, dim), x[masked].view(batch, -1, dim)
        for block in self.blocks[self.split :]:
            asked = self.block(block, asked, known, c)
        features[masked] = asked.flatten(0, 1)
        return self.logits(features), (features, masked)

    def embed(self, ids):
        embedding = self.model.backbone.embedding
        x = embedding.words.weight[torch.where(ids == BLANK, self.words, ids)] + embedding.positions.weight
        x = F.layer_norm(x, x.shape[-1:], embedding.norm_weight[0], embedding.norm_bias[0], 1e-6)
        return F.dropout(x, embedding.dropout[0].item(), self.model.training)

    def block(self, block, x, seen, c):
        parts = block.modulation[1](F.silu(c))[:, None].chunk(8, -1)
        shift, scale, shift_seen, scale_seen, gate, shift_mlp, scale_mlp, gate_mlp = parts
        attention, h = block.attention, self.norm(x) * (1 + scale) + shift
        q, k, v = attention.qkv(h).chunk(3, -1)
        if seen.shape[1]:
            h = self.norm(seen) * (1 + scale_seen) + shift_seen
            k_seen, v_seen = attention.kv_memory(h).chunk(2, -1)
            k, v = torch.cat([k_seen, k], 1), torch.cat([v_seen, v], 1)
        q, k, v = (t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + gate * attention.out((weights @ v).transpose(1, 2).flatten(2))
        return x + gate_mlp * self.mlp(block.mlp, self.norm(x) * (1 + scale_mlp) + shift_mlp)

    def norm(self, x):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    def mlp(self, mlp, x):
        return mlp[2](F.gelu(mlp[0](x), approximate="tanh"))

    def logits(self, features):
        head, backbone = self.model.head, self.model.backbone
        x = head.norm(F.gelu(head.project(backbone.norm(features))))
        return x @ backbone.embedding.words.weight[: self.words].detach().T + head.bias

    @torch.no_grad()
    def generate(self, classes, noise, steps=8, temperature=6.0, remask=1.5, guidance=2.5):
        """Ids `(B, L)` of images, with the random numbers of our own loop."""
        ids = torch.full((len(classes), self.length), BLANK)
        places = torch.arange(self.length).expand_as(ids)
        nothing, states = torch.full_like(classes, BLANK), [None, None]
        for step in range(steps):
            done = (step + 1) / steps
            given, states[0] = self(ids, classes, states[0])
            without, states[1] = self(ids, nothing, states[1])
            logits = (given + guidance * step / steps * (given - without)).float().log_softmax(-1)
            drawn = noise.choose(logits / max(temperature * (1 - done), 1e-3), step, places)
            masked = ids == BLANK
            words = torch.where(masked, drawn, ids)
            confidence = logits.gather(-1, words[..., None])[..., 0] + remask * (1 - done) * noise.gumbel(step, places)
            confidence = torch.where(masked, confidence, torch.inf)
            left = math.floor(self.length * math.cos(math.pi / 2 * done))
            ids = words.scatter(1, confidence.argsort(1)[:, :left], BLANK)
        return ids

    def loss(self, ids, classes, masked, earlier=None):
        """Cross entropy with label smoothing over the masked tokens."""
        logits, _ = self(torch.where(masked, BLANK, ids), classes, earlier)
        labels = torch.where(masked, ids, -1)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-1, label_smoothing=0.1)
