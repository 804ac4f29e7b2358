"""How kernels are run here."""

import triton


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on any device and slowly (`TRITON_INTERPRET=1`)."""
    return bool(triton.knobs.runtime.interpret)
