"""Samples of Fourier transforms and of complex numbers."""

import torch

from tests.rules.operands import c, f, s, x

aten = torch.ops.aten

SAMPLES = [
    s(aten.fft_fft.default, f(3, 4)),
    s(aten.fft_fft.default, c(3, 4), 6, 0, "ortho"),
    s(aten.fft_ifft.default, x(3, 4), dim=0),
    s(aten.fft_rfft.default, f(3, 4, 6), None, 1),
    s(aten.fft_irfft.default, c(3, 4)),
    s(aten.fft_hfft.default, c(3, 4), 5),
    s(aten.fft_ihfft.default, f(3, 4), dim=0),
    s(aten.fft_fft2.default, f(3, 4, 4)),
    s(aten.fft_ifft2.default, c(3, 4, 4), [3, 3]),
    s(aten.fft_rfft2.default, f(2, 3, 4, 4), None, [1, 2], "ortho"),
    s(aten.fft_irfft2.default, c(2, 4, 3)),
    s(aten.fft_hfft2.default, c(2, 4, 3)),
    s(aten.fft_ihfft2.default, f(2, 4, 3)),
    s(aten.fft_fftn.default, f(3, 4, 4)),
    s(aten.fft_fftn.default, f(3, 4, 4), [2]),
    s(aten.fft_ifftn.default, c(3, 4, 4), None, [0, -1]),
    s(aten.fft_rfftn.default, f(3, 4, 4), None, [1]),
    s(aten.fft_irfftn.default, c(3, 4, 4), [4], [1]),
    s(aten.fft_hfftn.default, c(3, 4, 4), None, [1]),
    s(aten.fft_ihfftn.default, f(3, 4, 4), None, [2]),
    s(aten._fft_c2c.default, c(3, 4), [1], 0, True),
    s(aten._fft_r2c.default, f(3, 4), [0], 0, True),
    s(aten._fft_c2r.default, c(3, 4), [1], 0, 6),
    s(aten.fft_fftshift.default, f(3, 4), [1]),
    s(aten.fft_ifftshift.default, f(3, 4)),
    s(aten.stft.default, f(2, 16), 4, 2, 4, f(4), return_complex=True),
    s(aten.stft.center, f(16), 4, 2, return_complex=True),
    s(aten.istft.default, c(2, 3, 8), 4, 2, center=False),
    s(aten.view_as_real.default, c(3, 4)),
    s(aten.complex.default, f(3, 4), f(4)),
    s(aten.polar.default, f(3, 4), f(3, 4)),
    s(aten.real.default, c(3, 4)),
    s(aten.imag.default, c(3, 4)),
    s(aten.angle.default, c(3, 4)),
    s(aten.abs.default, c(3, 4)),
    s(aten._conj.default, c(3, 4)),
    s(aten.mul.Tensor, c(3, 4), f(4)),
    s(aten.einsum.default, "bixy,ioxy->boxy", [c(2, 3, 2, 2), c(3, 4, 2, 2)]),
]
