"""4M as its papers and its published code do it, written for no speed: what `cross_modal_speed.py` compares with.

Batches are dicts of modalities. All tokens of all of them are embedded, by a module for each, and then most are
dropped; attention is in the open; each branch of guidance is a pass of its own, and so is each word of a caption, over
all before it; each pass encodes anew. Weights have their published names (`write_fourm`).
"""

import torch
import torch.nn.functional as F
from torch import nn

from mmmask.transformer.placed_embedding import fixed_places


class Attention(nn.Module):
    """Over the tokens themselves, masked."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim, False), nn.Linear(dim, dim, False)

    def forward(self, x, mask):
        return self.proj(attention(*self.qkv(x).chunk(3, -1), mask, self.heads))


class CrossAttention(nn.Module):
    """Over a context, masked."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.q, self.kv = heads, nn.Linear(dim, dim, False), nn.Linear(dim, 2 * dim, False)
        self.proj = nn.Linear(dim, dim, False)

    def forward(self, x, context, mask):
        return self.proj(attention(self.q(x), *self.kv(context).chunk(2, -1), mask, self.heads))


def attention(q, k, v, mask, heads):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(mask[:, None], -torch.finfo(scores.dtype).max)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Gated(nn.Module):
    def __init__(self, dim):
        super().__init__()
        hidden = int(8 * dim / 3)
        self.fc1, self.fc3 = nn.Linear(dim, hidden, False), nn.Linear(dim, hidden, False)
        self.fc2 = nn.Linear(hidden, dim, False)

    def forward(self, x):
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


class EncoderBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm(dim), Attention(dim, heads), norm(dim), Gated(dim)

    def forward(self, x, mask):
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1, self.query_norm, self.context_norm, self.norm2 = (norm(dim) for _ in range(4))
        self.self_attn, self.cross_attn, self.mlp = Attention(dim, heads), CrossAttention(dim, heads), Gated(dim)

    def forward(self, x, context, mask, context_mask):
        x = x + self.self_attn(self.norm1(x), mask)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), context_mask)
        return x + self.mlp(self.norm2(x))


def norm(dim):
    return nn.LayerNorm(dim, eps=1e-6)


class Embedding(nn.Module):
    """Of one modality, on one side."""

    def __init__(self, modality, dim, answers):
        super().__init__()
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_emb", fixed_places(modality, dim)[None])
        if modality.vocab_size is None:
            self.proj = nn.Linear(modality.channels, dim, False)
        else:
            self.token_emb = nn.Embedding(modality.vocab_size, dim)
        if answers:
            self.to_logits = nn.Linear(dim, modality.vocab_size, False)
            self.to_logits.weight = self.token_emb.weight
        self.ordered = modality.kind == "sequence"

    def words(self, tensor):
        return self.token_emb(tensor) if hasattr(self, "token_emb") else self.proj(tensor)

    def places(self, mask):
        """Of all tokens; in a sequence, the rank among those that are there."""
        if not self.ordered:
            return (self.pos_emb + self.mod_emb).expand(*mask.shape, -1)
        return self.pos_emb[0][((~mask).cumsum(1) - 1).clamp(min=0)] + self.mod_emb


class PlainFourM(nn.Module):
    """Batches are `{modality: {"tensor", "input_mask", "target_mask"}}`; masks are true where a token is not used."""

    def __init__(self, modalities, dim=768, encoder_depth=12, decoder_depth=12, heads=12):
        super().__init__()
        self.modalities = list(modalities)
        self.encoder_embeddings = nn.ModuleDict({m.name: Embedding(m, dim, False) for m in modalities})
        self.decoder_embeddings = nn.ModuleDict({m.name: Embedding(m, dim, True) for m in modalities if m.vocab_size})
        for name, embedding in self.decoder_embeddings.items():
            embedding.mod_emb = self.encoder_embeddings[name].mod_emb
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = nn.ModuleList(EncoderBlock(dim, heads) for _ in range(encoder_depth))
        self.decoder = nn.ModuleList(DecoderBlock(dim, heads) for _ in range(decoder_depth))
        self.encoder_norm, self.decoder_norm = norm(dim), norm(dim)
        self.decoder_proj_context = nn.Linear(dim, dim)
        for name, parameter in self.named_parameters():
            if "norm" in name and name.endswith("bias"):  # zeros, which are not learned
                parameter.requires_grad_(False)

    def encode(self, batch, most=None):
        """The context of what is known, and where there is none; `most` known tokens of a sample (default: as many as
        there are)."""
        parts = []
        for name, entry in batch.items():
            embedding = self.encoder_embeddings[name]
            words = embedding.words(entry["tensor"])
            parts.append((words, embedding.places(entry["input_mask"]), entry["input_mask"]))
        words, places, mask = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        order = mask.int().argsort(dim=1, stable=True)[:, : most or int((~mask).sum(1).max())]
        words, places, mask = picked(words, order), picked(places, order), mask.gather(1, order)
        x = (words + places).masked_fill(mask[..., None], 0.0)
        seen = mask[:, None].expand(-1, mask.shape[1], -1)
        for block in self.encoder:
            x = block(x, seen)
        return self.decoder_proj_context(self.encoder_norm(x)) + places, mask

    def decode(self, batch, context, most=None):
        """Features of what is asked, its right words, and its modalities (their numbers, -1 for padding)."""
        parts = []
        for number, modality in enumerate(self.modalities):
            if modality.name not in batch or modality.vocab_size is None:
                continue
            tensor, mask = batch[modality.name]["tensor"], batch[modality.name]["target_mask"]
            embedding = self.decoder_embeddings[modality.name]
            if embedding.ordered:  # each word is asked, given those before it
                places = embedding.places(mask)[:, :-1]
                words, tensor, mask = embedding.words(tensor[:, :-1]), tensor[:, 1:], mask[:, :-1] | mask[:, 1:]
            else:
                words, places = self.mask_token.expand(*tensor.shape, -1), embedding.places(mask)
            parts.append((words + places, tensor, torch.where(mask, -1, number)))
        x, wanted, kind = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        order = (kind < 0).int().argsort(dim=1, stable=True)[:, : most or int((kind >= 0).sum(1).max())]
        x, wanted, kind = picked(x, order), wanted.gather(1, order), kind.gather(1, order)
        x = x.masked_fill(kind[..., None] < 0, 0.0)
        sequences = torch.tensor([n for n, m in enumerate(self.modalities) if m.kind == "sequence"])
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        mask = (kind[:, :, None] != kind[:, None]) | (later & torch.isin(kind, sequences)[:, :, None])
        context, context_mask = context
        seen = context_mask[:, None].expand(-1, x.shape[1], -1)
        for block in self.decoder:
            x = block(x, context, mask, seen)
        return self.decoder_norm(x), wanted, kind

    def forward(self, batch, most_known=None, most_asked=None):
        """Logits of each modality and their right words: `{modality: ((n, V), (n,))}`."""
        x, wanted, kind = self.decode(batch, self.encode(batch, most_known), most_asked)
        found = {}
        for number, modality in enumerate(self.modalities):
            if modality.name in self.decoder_embeddings:
                its = kind == number
                found[modality.name] = self.decoder_embeddings[modality.name].to_logits(x[its]), wanted[its]
        return found

    def loss(self, batch, most_known, most_asked):
        """The mean over modalities of their cross entropies."""
        found = self(batch, most_known, most_asked).values()
        parts = [F.cross_entropy(x.float(), y) if len(y) else 0.0 * x.float().sum() for x, y in found]
        return torch.stack(parts).mean()

    @torch.no_grad()
    def generate(self, batch, target, schedule, guidance, noise):
        """Ids of a grid by MaskGIT: `guidance` in `c + w (c - u)`, where u has all else emptied; `noise` is ours."""
        ids, modality = batch[target]["tensor"], self.decoder_embeddings[target]
        counts = schedule.counts(ids.shape[1])
        for number, step in enumerate(schedule.steps):
            asked = {target: batch[target]}
            given = self.decode(asked, self.encode(batch))[0]
            without = self.decode(asked, self.encode(self.emptied(batch, target)))[0]
            given, without = modality.to_logits(given).float(), modality.to_logits(without).float()
            logits = (given + guidance * (given - without)) / step.temperature
            unknown = batch[target]["input_mask"]
            places = unknown.nonzero()[:, 1].view(len(ids), -1)
            words = noise.choose(logits, number, places)
            chances = logits.log_softmax(-1).gather(-1, words[..., None])[..., 0]
            best = chances.argsort(1, descending=True)[:, : counts[number] - counts[number + 1]]
            places, words = places.gather(1, best), words.gather(1, best)
            ids, unknown = ids.scatter(1, places, words), unknown.scatter(1, places, False)
            batch = {**batch, target: {"tensor": ids, "input_mask": unknown, "target_mask": ~unknown}}
        return ids

    def emptied(self, batch, target):
        """A copy in which nothing is known but the target; of sequences there remains that they were left out."""
        found = {name: {key: value.clone() for key, value in entry.items()} for name, entry in batch.items()}
        for modality in self.modalities:
            if modality.name in batch and modality.name != target:
                found[modality.name]["input_mask"].fill_(True)
                if modality.kind == "sequence":
                    found[modality.name]["tensor"][:, 0] = modality.sentinels[0]
                    found[modality.name]["input_mask"][:, 0] = False
        return found

    @torch.no_grad()
    def caption(self, batch, target, words):
        """The likeliest answer of so many words to a sequence of which nothing is known, word by word."""
        first = next(m for m in self.modalities if m.name == target).sentinels[0]
        ids = torch.full((len(next(iter(batch.values()))["tensor"]), 1), first)
        for _ in range(words - 1):
            asked = F.pad(ids, (0, 1))  # the word that comes next is not known
            entry = {"tensor": asked, "target_mask": torch.zeros_like(asked, dtype=torch.bool)}
            features = self.decode({target: entry}, self.encode(batch))[0]
            logits = self.decoder_embeddings[target].to_logits(features).float()
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        return ids


def picked(x, order):
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def batch_of(question, data, modalities):
    """The dict for a question of ours; all tokens of the `data` it was drawn from are in it."""
    batch = {}
    for number, modality in enumerate(modalities):
        known, asked = (tokens.is_valid() & (tokens.modality == number) for tokens in (question.known, question.asked))
        if modality.kind == "sequence":
            batch[modality.name] = sequence(question, known, asked, modality.length)
            continue
        masks = []
        for tokens, its in ((question.known, known), (question.asked, asked)):
            there = torch.zeros(len(its), modality.length + 1, dtype=torch.bool)
            masks.append(~there.scatter(1, torch.where(its, tokens.position, modality.length), True)[:, :-1])
        entry = data[modality.name]
        tensor = torch.from_numpy(entry.ids) if entry.values is None else entry.values
        batch[modality.name] = {"tensor": tensor, "input_mask": masks[0], "target_mask": masks[1]}
    return batch


def sequence(question, known, asked, length):
    """What is known, then the answer, of which the first word is given."""
    rows = []
    for row in range(len(known)):
        fed, wanted = question.asked.ids[row][asked[row]], question.wanted[row][asked[row]]
        rows.append((question.known.ids[row][known[row]], torch.cat([fed[:1], wanted])))
    width = max(length, *(len(a) + len(b) for a, b in rows))
    tensor, masks = torch.zeros(len(rows), width, dtype=torch.long), torch.ones(2, len(rows), width, dtype=torch.bool)
    for row, (first, then) in enumerate(rows):
        both = torch.cat([first, then])
        tensor[row, : len(both)] = both
        masks[0, row, : len(first)], masks[1, row, len(first) : len(both)] = False, False
    return {"tensor": tensor, "input_mask": masks[0], "target_mask": masks[1]}


def all_known(tensor, known=True):
    """A modality that is known, or asked, as a whole."""
    mask = torch.full(tensor.shape[:2], not known)
    return {"tensor": tensor, "input_mask": mask, "target_mask": ~mask}
