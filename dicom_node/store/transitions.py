"""Moving a state: compare-and-set on the row, and one `transition` row that says why.

This is the only module that writes a `state` column of an existing row. A move that `lifecycle.MOVES`
does not hold raises; a row that is no longer in the expected state is left alone and reported.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, insert, literal, select, update

from dicom_node.lifecycle import DeliveryState, JobState, State, check_move
from dicom_node.store.database import utc_now
from dicom_node.store.dialect import ring
from dicom_node.store.tables import transition
from dicom_node.store.tally import note

WORK: dict[State, str] = {JobState.QUEUED: "job", DeliveryState.PENDING: "delivery"}
"""States in which a row waits for somebody, who is woken."""


def began(connection: Connection, table: Table, row_id: int, state: State, reason: str) -> None:
    """Record that a row came into being in `state`."""
    _record(connection, table, row_id, None, state, reason)


def move(
    connection: Connection,
    table: Table,
    row_id: int,
    old: State,
    new: State,
    reason: str,
    **values: Any,
) -> bool:
    """Move a row from `old` to `new`, setting further columns with it.

    Returns:
        False if the row was not in `old` any more; nothing is changed then.

    Raises:
        IllegalMove: `old -> new` is not in the table of moves.
    """
    check_move(old, new)
    if "reason" in table.c:
        values.setdefault("reason", reason)
    moved = connection.execute(
        update(table).where(table.c.id == row_id, table.c.state == old).values(state=new, **values)
    )
    if moved.rowcount != 1:
        return False
    _record(connection, table, row_id, old, new, reason)
    return True


def move_all(
    connection: Connection,
    table: Table,
    which: ColumnElement[bool],
    old: State,
    new: State,
    reason: str,
) -> int:
    """Move every row that a condition holds for and that is in `old`; returns how many.

    Raises:
        IllegalMove: `old -> new` is not in the table of moves.
    """
    check_move(old, new)
    columns = [transition.c[name] for name in ("entity", "entity_id", "old", "new", "reason", "at")]
    told = [table.name, table.c.id, old.value, new.value, reason, utc_now()]
    values = [
        value if value is table.c.id else literal(value, column.type)
        for value, column in zip(told, columns, strict=True)
    ]
    chosen = select(*values).where(which, table.c.state == old)
    connection.execute(insert(transition).from_select([c.name for c in columns], chosen))
    moved = connection.execute(update(table).where(which, table.c.state == old).values(state=new))
    note(connection, table.name, {old.value: -moved.rowcount, new.value: moved.rowcount})
    return moved.rowcount


def _record(
    connection: Connection, table: Table, row_id: int, old: State | None, new: State, reason: str
) -> None:
    if old is not new:
        note(connection, table.name, ({old.value: -1} if old else {}) | {new.value: 1})
    connection.execute(
        insert(transition).values(
            entity=table.name,
            entity_id=row_id,
            old=None if old is None else old.value,
            new=new.value,
            reason=reason,
            at=utc_now(),
        )
    )
    if new in WORK:
        ring(connection, WORK[new])
