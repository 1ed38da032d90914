"""Our networks give the numbers that the peers' own code gave for the same weights and inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch

from policies.backbones import load_wam
from policies.backbones.published.layout import LAYOUTS
from policies.backbones.published.mixture import MixtureModel
from policies.backbones.published.shared_blocks import FrozenSharedBlocks
from tests.policies.published import shared_golden
from tests.policies.published.mixture_golden import CASES, Inputs, answers
from tests.policies.published.small_mixture import networks, write_mixture
from tests.policies.xwam_golden import sample

FAST_WAM, OPEN_WAM, LINGBOT = (
    json.loads(Path(__file__).with_name(f"{peer}_golden.json").read_text())
    for peer in ("fastwam", "openwam", "lingbot")
)
MIXTURES = {**FAST_WAM, **OPEN_WAM}
TOLERANCE = 1e-4


@pytest.mark.parametrize("key", ["fastwam-idm", "fastwam-uncond", "fastwam-libero-optional-idm", "openwam-idm"])
def test_a_mixture(key: str) -> None:
    """See `mixture_golden.py`. The joint variants have the same networks as the IDMs."""
    layout = LAYOUTS.get(key)
    model, inputs = cast(MixtureModel, networks(layout)).eval(), Inputs.of(key)
    for case in CASES:
        with torch.no_grad():
            found = answers(model, inputs, case, imagines=layout.action_reads != "observed_keys")
        for part, values in found.items():
            golden = torch.tensor(MIXTURES[f"{key}/{case}/{part}"])
            torch.testing.assert_close(sample(values), golden, rtol=TOLERANCE, atol=TOLERANCE, msg=f"{case}: {part}")


@pytest.mark.parametrize("before", shared_golden.HISTORIES)
@pytest.mark.parametrize("key", shared_golden.KEYS)
def test_lingbot(key: str, before: str, tmp_path: Path) -> None:
    """See `shared_golden.py`."""
    wam = load_wam(write_mixture(tmp_path, key))
    assert isinstance(wam, FrozenSharedBlocks)
    count = shared_golden.HISTORIES[before]
    for case in CASES:
        found = shared_golden.answers(wam, shared_golden.point_of(key, case), shared_golden.chunks_of(key, count))
        for part, values in found.items():
            golden = torch.tensor(LINGBOT[f"{key}/{before}/{case}/{part}" if count else f"{key}/{case}/{part}"])
            torch.testing.assert_close(sample(values), golden, rtol=TOLERANCE, atol=TOLERANCE, msg=f"{case}: {part}")
