"""What the tests of learned schedules do with walks and their traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch

from policies.backbones.door import FrozenWAM
from policies.schedule import Schedule
from policies.trace import Trace
from policies.walk import walk
from policies.walk_record import WalkRecord

AnyTrace = TypeVar("AnyTrace", bound=Trace)


def trace_of(record: WalkRecord, kind: type[AnyTrace]) -> AnyTrace:
    """Return the trace of a walk, which must be of this kind."""
    assert isinstance(record.trace, kind)
    return record.trace


def padded(records: Sequence[WalkRecord], kind: type[AnyTrace]) -> AnyTrace:
    """Return the traces of walks as one, with rows of the same length."""
    traces = [trace_of(record, kind) for record in records]
    return kind.join(traces).padded([len(trace) for trace in traces])


def together_and_alone(
    wam: FrozenWAM, context: Any, schedule: Schedule, order: Sequence[int], deterministic: bool
) -> Iterator[tuple[WalkRecord, WalkRecord]]:
    """Walk the rows of `context` in this order as one batch, and each alone. Yield both records of every row."""
    rows = torch.tensor(order)
    seeds, decisions = [10 + row for row in order], [20 + row for row in order]
    batch = walk(wam, context.select(rows), schedule, seeds, decisions, deterministic=deterministic)
    for index, record in enumerate(batch.records):
        one = slice(index, index + 1)
        alone = walk(wam, context.select(rows[one]), schedule, seeds[one], decisions[one], deterministic=deterministic)
        yield record, alone.records[0]
