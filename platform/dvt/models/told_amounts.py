"""Amounts as a person reads them."""


def told_macs(macs: float, digits: int = 3) -> str:
    """Multiply-adds as a person reads them, such as `12.3 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if macs >= size:
            return f"{macs / size:.{digits}g} {unit}"
    return f"{macs:.{digits}g}"


def told_bytes(size: int) -> str:
    """Memory as a person reads it, such as `1.37 MiB`."""
    return f"{size / 2**20:.3g} MiB" if size >= 2**20 else f"{size / 2**10:.3g} KiB"
