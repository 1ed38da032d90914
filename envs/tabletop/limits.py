"""How long a policy may take for each task, about twice what the scripted expert takes."""

from __future__ import annotations

STEP_LIMIT_S = {
    "click_bell": 7.0,
    "handover_block": 12.0,
    "lift_pot": 10.0,
    "pass_post": 6.0,
    "place_block_pad": 10.0,
    "stack_blocks_two": 12.0,
}
