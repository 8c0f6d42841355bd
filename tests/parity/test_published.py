"""The published cascades give the published logits.

No published weights are needed: every tensor of the state dict is made from its published name and its shape, and the
published implementation's logits for such weights and images stand below.
"""

import zlib

import pytest
import torch

from dvt.models import VARIANTS
from tests.parity.named_weights import noise, published_cascade, published_shapes

# The first eight classes' logits of the published code, exit by exit, for the first image.
PUBLISHED = {
    "dvt_t2t_vit_12": [
        [0.56721, -0.05055, -0.06974, 0.05918, -1.83041, -1.15137, 0.78604, 0.16981],
        [-0.12439, -0.29646, -0.30621, 1.10603, -1.31473, -1.19487, 2.13182, 0.3735],
        [1.45451, -1.21692, -0.14469, 1.57779, -0.24278, 0.64239, 0.38745, -0.14778],
    ],
    "dvt_deit_small": [
        [1.63998, 0.26395, 0.95416, -1.37351, -0.58723, 1.57307, -0.70815, -0.57297],
        [0.37245, 0.79757, 0.19506, -0.99199, 0.91901, 1.25338, 1.64877, 0.12383],
        [-1.96651, -0.63575, 0.52684, 1.25822, -0.92828, -0.33727, 0.79756, -0.18552],
    ],
}
# Number of entries of the published state dict, and the checksum of its sorted names and shapes.
LAYOUTS = {"dvt_t2t_vit_12": (650, 1895253850), "dvt_deit_small": (608, 3711304751)}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_names_and_shapes_are_the_published_ones(variant: str) -> None:
    layout = sorted(published_shapes(VARIANTS[variant]).items())
    checksum = zlib.crc32("\n".join(f"{name} {shape}" for name, shape in layout).encode())
    assert (len(layout), checksum) == LAYOUTS[variant]


@pytest.mark.parametrize("variant", PUBLISHED)
def test_logits_are_the_published_ones(variant: str) -> None:
    cascade = published_cascade(VARIANTS[variant])
    with torch.no_grad():
        logits = cascade(noise("images", (1, 3, 224, 224)))
    torch.testing.assert_close(logits[:, 0, :8], torch.tensor(PUBLISHED[variant]), rtol=0, atol=1e-4)
