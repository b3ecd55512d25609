"""Fourier transforms: linear along some axes, which stay; every other axis passes through."""

from __future__ import annotations

from typing import Any

import torch

from fxprune.guards import true
from fxprune.rules.registry import couples
from fxprune.rules.site import Site, TensorGuard, shape_of

aten = torch.ops.aten

MIXED = "a Fourier transform mixes this axis"
TRANSFORMS = [
    aten.fft_fft.default,
    aten.fft_fft2.default,
    aten.fft_fftn.default,
    aten.fft_ifft.default,
    aten.fft_ifft2.default,
    aten.fft_ifftn.default,
    aten.fft_rfft.default,
    aten.fft_rfft2.default,
    aten.fft_rfftn.default,
    aten.fft_irfft.default,
    aten.fft_irfft2.default,
    aten.fft_irfftn.default,
    aten.fft_hfft.default,
    aten.fft_hfft2.default,
    aten.fft_hfftn.default,
    aten.fft_ihfft.default,
    aten.fft_ihfft2.default,
    aten.fft_ihfftn.default,
    aten._fft_c2c.default,
    aten._fft_r2c.default,
    aten._fft_c2r.default,
    aten.fft_fftshift.default,
    aten.fft_ifftshift.default,
]
# of a signal -> how many of its last axes are cut into frames or put together from them
FRAMED: dict[Any, int] = {aten.stft.default: 1, aten.stft.center: 1, aten.istft.default: 2}


def _transformed(args: dict[str, Any], rank: int) -> set[int]:
    """Return the axes that are transformed: without `dim` the last ones of a size, or all."""
    dim, sizes = args["dim"], args.get("s")
    if dim is None:
        dim = range(rank - len(sizes) if sizes is not None else 0, rank)
    return {int(d) % rank for d in ([dim] if isinstance(dim, int) else dim)}


@couples(*TRANSFORMS)
def transform(site: Site) -> TensorGuard:
    """Pin the axes that are transformed: their sizes and places have a meaning."""
    x, sizes = site.tensor("self"), shape_of(site.out())
    for d in _transformed(site.args, max(1, len(x.dims))) if x.dims else ():
        site.pin(x.dims[d], MIXED)
        x = x.with_(d, true(sizes[d]), False)
    return x


@couples(*FRAMED)
def frames(site: Site) -> TensorGuard:
    """Transform a signal window by window, or put it together again."""
    x, out = site.tensor("self"), site.fixed()
    lead = len(x.dims) - FRAMED[site.operator]
    site.pin_all([x.without(range(lead)), site.optional("window")], MIXED)
    dims = (*x.dims[:lead], *out.dims[lead:])
    return TensorGuard(dims, (*x.zero[:lead], *out.zero[lead:]))
