"""An hour of sendings of every habit, on a simulated clock: each series ends in exactly one current job."""

from pathlib import Path

from benchmarks.assembly.replay import simulate


def test_every_series_is_queued_once_and_soon(tmp_path: Path) -> None:
    said = simulate(hours=0.5, seed=3, studies_an_hour=60.0, folder=tmp_path)
    assert said["series_queued"] == said["series"]
    assert said["jobs_a_current_revision"] == [1]
    assert 3.0 <= float(str(said["wait_median_s"])) < 5.0
    assert float(str(said["wait_max_s"])) <= 60.5
