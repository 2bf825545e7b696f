"""The MaskGIT VQGAN equals the published implementation."""

import torch
import torch.nn.functional as F
from nat_reference import vectors
from torch.testing import assert_close

from mmmask.pretrained.vqgan import read_vqgan, write_vqgan
from mmmask.tokenizers import VQGAN, EuclideanQuantizer


def vqgan():
    model = VQGAN(EuclideanQuantizer(64, 12), 32, width=32, multiples=(1, 2, 1), blocks=1, published=True)
    model.load_state_dict(read_vqgan(vectors("vqgan_weights")))
    return model.eval()


def test_encoding():
    model, data = vqgan(), vectors("vqgan_io")
    z = model.encoder(data["image"])
    assert_close(z, data["encoder_out"], rtol=1e-4, atol=2e-5)
    assert torch.equal(model.encode(data["image"]).flatten(), data["indices"])


def test_decoding():
    model, data = vqgan(), vectors("vqgan_io")
    with torch.no_grad():
        decoded = model.decoder(model.quantizer.codes(data["codes"]).permute(0, 3, 1, 2))
    assert_close(decoded, data["decoded"], rtol=1e-4, atol=2e-5)
    assert_close(model.decode(data["codes"]), data["decoded"].clamp(0, 1), rtol=1e-4, atol=2e-5)


def test_the_way_there_and_back_and_its_loss():
    model, data = vqgan(), vectors("vqgan_io")
    reconstruction = model(data["image"])
    assert_close(reconstruction.images, data["recon"], rtol=1e-4, atol=2e-5)
    z, codes = data["encoder_out"], data["quant"]
    assert_close(F.mse_loss(z, codes) * 1.25, data["vq_loss"][0], rtol=1e-4, atol=0)
    assert_close(reconstruction.loss * 1.25 / model.quantizer.commitment, data["vq_loss"][0], rtol=1e-4, atol=0)


def test_names_map_there_and_back():
    published = vectors("vqgan_weights")
    back = write_vqgan(read_vqgan(published))
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) for name in back)


def test_the_spelling_of_the_hub_is_the_same_model():
    published = vectors("vqgan_weights")
    spelled = {
        name.replace("mid.block_1", "mid.0")
        .replace("mid.block_2", "mid.1")
        .replace("upsample.conv", "upsample_conv"): value
        for name, value in published.items()
    }
    assert spelled.keys() != published.keys()
    ours, theirs = read_vqgan(published), read_vqgan(spelled)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_published_size():
    with torch.device("meta"):
        model = VQGAN(EuclideanQuantizer(1024, 256), published=True)
    weights = sum(p.numel() for p in model.parameters()) + model.quantizer.codebook.numel()
    assert weights == 54_515_587
