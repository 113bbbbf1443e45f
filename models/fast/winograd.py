"""Winograd convolutions for inference: 3 x 3 kernels with a quarter of the multiplications.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016:
Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A computes 4 x 4 outputs Y from 6 x 6 inputs d and a kernel g. Over all
channels, each of the 36 products ⊙ is a matrix product; the transforms are matrix products, too.
Rounding errors are about 10 times those of a direct convolution: 1e-5 of the largest output.
"""

import torch
from torch import Tensor, nn

_OUT, _IN = 4, 6  # side of a tile in outputs and in inputs; neighboring tiles share 2 inputs
_A_T = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_B_T = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_24_G = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
_CONSTANT = _IN + 1  # the product that is added to all outputs: column 1 of Aᵀ is 1
# With fewer channels or tiles the transforms take longer than the products save.
_MIN_CHANNELS = 128
_MIN_TILES = 16
_VALUES_AT_ONCE = 36 * 2**15  # per chunk of tiles: few enough for the CPU cache


class WinogradConv:
    """A 3 x 3 convolution with stride 1 and padding 1, in float32.

    Args:
        weight: (out, in, 3, 3).
        bias: (out,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        g = torch.tensor(_24_G, dtype=torch.float64) / 24
        kernels = torch.einsum("ai,ocij,bj->abco", g, weight.double(), g)
        self._kernels = kernels.flatten(0, 1).float().contiguous()  # (36, in, out)
        self._bias = None if bias is None else bias.float()
        b_t, a_t = torch.tensor(_B_T).float(), torch.tensor(_A_T).float()
        self._from_inputs = torch.kron(b_t, b_t)  # (36, 36)
        self._to_outputs = torch.kron(a_t, a_t)  # (16, 36)

    @staticmethod
    def supports(conv: nn.Conv2d) -> bool:
        """Whether a convolution has the geometry of this class, and enough channels to gain."""
        geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        is_known = geometry == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        return is_known and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS

    @staticmethod
    def is_faster_for(x: Tensor) -> bool:
        """Whether an input (B, C, H, W) is float32 and fills enough tiles."""
        batch_size, _, height, width = x.shape
        tiles = batch_size * _tiles(height) * _tiles(width)
        is_filled = 4 * batch_size * height * width >= 3 * tiles * _OUT**2
        return x.dtype == torch.float32 and is_filled and tiles >= _MIN_TILES

    def __call__(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """Convolve (B, C, H, W) to (B, out, H, W), in channels-last layout.

        Args:
            residual: (B, out, H, W), added before ReLU.
            relu: apply ReLU.
        """
        batch_size, _, height, width = x.shape
        rows, columns = _tiles(height), _tiles(width)
        x = x.permute(0, 2, 3, 1)
        y = x.new_empty(batch_size, height, width, self._kernels.shape[2])
        per_chunk = max(1, _VALUES_AT_ONCE // (_IN**2 * x.shape[3] * columns))  # rows of tiles
        images = max(1, per_chunk // rows)
        for first in range(0, batch_size, images):
            tiles = _overlapping_tiles(x[first : first + images], rows, columns)
            for row in range(0, rows, per_chunk):
                chunk = tiles[:, row : row + per_chunk]
                top, bottom = row * _OUT, min((row + per_chunk) * _OUT, height)
                part = y[first : first + images, top:bottom]
                part.copy_(self._convolve(chunk)[:, : bottom - top, :width])
                if residual is not None:
                    part += residual.permute(0, 2, 3, 1)[first : first + images, top:bottom]
                if relu:
                    part.relu_()
        return y.permute(0, 3, 1, 2)

    def _convolve(self, tiles: Tensor) -> Tensor:
        """Tiles (B, rows, columns, 6, 6, C) -> outputs (B, 4 rows, 4 columns, out)."""
        batch_size, rows, columns, _, _, channels = tiles.shape
        inputs = tiles.permute(3, 4, 0, 1, 2, 5).reshape(_IN**2, -1)
        inputs = (self._from_inputs @ inputs).view(_IN**2, -1, channels)
        products = torch.bmm(inputs, self._kernels)  # (36, tiles, out)
        if self._bias is not None:
            products[_CONSTANT] += self._bias
        outputs = self._to_outputs @ products.view(_IN**2, -1)
        outputs = outputs.view(_OUT, _OUT, batch_size, rows, columns, -1)
        return outputs.permute(2, 3, 0, 4, 1, 5).reshape(
            batch_size, rows * _OUT, columns * _OUT, -1
        )


def _tiles(size: int) -> int:
    return -(-size // _OUT)


def _overlapping_tiles(x: Tensor, rows: int, columns: int) -> Tensor:
    """View (B, H, W, C), padded with zeros, as tiles (B, rows, columns, 6, 6, C)."""
    batch_size, height, width, channels = x.shape
    padded = x.new_empty(batch_size, rows * _OUT + 2, columns * _OUT + 2, channels)
    padded[:, 0] = padded[:, :, 0] = 0
    padded[:, height + 1 :] = padded[:, :, width + 1 :] = 0
    padded[:, 1 : height + 1, 1 : width + 1] = x
    return padded.unfold(1, _IN, _OUT).unfold(2, _IN, _OUT).permute(0, 1, 2, 4, 5, 3)
