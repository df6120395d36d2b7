"""How many are in each state, without counting them.

What comes in: every change, in the transaction that makes it. What goes out: sums. Owns: the sums are those
that counting would give. A change is a row that is added and never a counter that is raised, so that two
writers never wait for each other; whoever clears up adds the rows together now and then.
"""

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import Connection, Engine, delete, func, insert, select

from dicom_node.store.database import reading, writing
from dicom_node.store.tables import tally

OPEN = "OPEN"
"""The state of an association that has not ended."""

WORTH_IT = 100
"""So few rows are summed as quickly as one for each state."""


def note(connection: Connection, entity: str, changes: Mapping[str, int]) -> None:
    """Note that so many more, or fewer, of an entity are in a state.

    Args:
        connection: the transaction that makes it so.
        entity: the name of its table.
        changes: state -> difference.
    """
    rows = [
        {"entity": entity, "state": state, "number": number}
        for state, number in changes.items()
        if number
    ]
    if rows:
        connection.execute(insert(tally), rows)


class Tally:
    """The sums."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def counts(self) -> dict[str, dict[str, int]]:
        """Entity -> state -> how many, where there are any."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(tally.c.entity, tally.c.state, func.sum(tally.c.number))
                .group_by(tally.c.entity, tally.c.state)
                .order_by(tally.c.entity, tally.c.state)
            )
            found: dict[str, dict[str, int]] = defaultdict(dict)
            for entity, state, number in rows:
                if number:
                    found[entity][state] = int(number)
            return dict(found)

    def compact(self) -> None:
        """Put one row in the place of many, if they are; two who do so at once take different rows."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(func.count()).select_from(tally)).scalar_one()
        if rows < WORTH_IT:
            return
        with writing(self._engine) as connection:
            free = select(tally.c.id).with_for_update(skip_locked=True).scalar_subquery()
            taken = connection.execute(
                delete(tally)
                .where(tally.c.id.in_(free))
                .returning(tally.c.entity, tally.c.state, tally.c.number)
            )
            sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
            for entity, state, number in taken:
                sums[entity][state] += number
            for entity, changes in sums.items():
                note(connection, entity, changes)
