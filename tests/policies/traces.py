"""What the tests of learned schedules do with the traces of walks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from policies.trace import Trace
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
