"""The GPU that CUDA was given, and the same one for Vulkan."""

from __future__ import annotations

import pytest

from envs.process.gpus import GPU, GPUError, given_gpu, parse_gpus, pci_address

LISTED = """0, GPU-aaaa-1, 00000000:17:00.0, Disabled
1, GPU-bbbb-2, 00000000:65:00.0, [N/A]
2, GPU-cccc-3, 00000001:CA:00.0, Enabled
"""
FIRST, SECOND, SPLIT = parse_gpus(LISTED)


def test_what_the_driver_lists_is_read() -> None:
    assert GPU(1, "GPU-bbbb-2", "0000:65:00.0") == SECOND
    assert (SPLIT.pci, SPLIT.mig) == ("0001:ca:00.0", True)
    with pytest.raises(GPUError, match="nvidia-smi said"):
        parse_gpus("Failed to initialize NVML")
    with pytest.raises(ValueError, match="no place on the PCI bus"):
        pci_address("17")


@pytest.mark.parametrize(
    ("visible", "given"),
    [(None, None), ("", None), ("-1", None), ("1", SECOND), ("1,0", SECOND), ("GPU-bbbb-2", SECOND), ("GPU-aa", FIRST)],
)
def test_the_first_visible_gpu_is_the_one_that_was_given(visible: str | None, given: GPU | None) -> None:
    assert given_gpu(visible, [FIRST, SECOND, SPLIT]) == given


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ("7", r"7 is not one GPU of this machine. There are: 0 \(GPU-aaaa-1\)"),
        ("GPU-", "GPU- is not one GPU"),
        ("MIG-1234", "an instance of MIG cannot render"),
        ("2", "GPU 2 .* is split by MIG"),
    ],
)
def test_a_gpu_that_is_not_there_or_cannot_render_is_named(visible: str, message: str) -> None:
    with pytest.raises(GPUError, match=message):
        given_gpu(visible, [FIRST, SECOND, SPLIT])
