"""What workers say of their devices is shown while they live."""

from datetime import timedelta

from sqlalchemy import Engine, update

from dicom_node.store.database import utc_now, writing
from dicom_node.store.page_tables import worker
from dicom_node.store.workers import ALIVE, Workers


def test_a_worker_is_shown_as_it_last_spoke_and_forgotten_when_it_is_silent(engine: Engine) -> None:
    workers = Workers(engine)
    workers.seen("a/1", "GPU", "cuda", 100, 80)
    workers.seen("a/2", "CPU", "cpu", 50, 40)
    workers.seen("a/1", "GPU", "cuda", 100, 20)
    assert [(one.owner, one.free_bytes) for one in workers.alive()] == [("a/1", 20), ("a/2", 40)]
    with writing(engine) as connection:
        long_ago = utc_now() - 3 * ALIVE - timedelta(seconds=1)
        connection.execute(update(worker).where(worker.c.owner == "a/2").values(seen_at=long_ago))
    assert [one.owner for one in workers.alive()] == ["a/1"]
    workers.seen("a/1", "GPU", "cuda", 100, 20)
    with engine.connect() as connection:
        assert connection.execute(worker.select()).all()[0].owner == "a/1"
        assert len(connection.execute(worker.select()).all()) == 1
