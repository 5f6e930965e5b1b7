"""The simulated queue, against days that can be reckoned by hand."""

from dataclasses import replace

from infra.simulation import Load, simulate

EVEN = Load(scenes=100, hours=0.0, seconds=36.0, spread=0.0, workers=1, km2=10.0, price=2.0)


def test_one_worker_does_one_scene_after_the_other() -> None:
    day = simulate(EVEN)
    assert (1.0, 1.0, 0) == (day.finished_hours, day.busy, day.repeated)
    assert (1000.0, 2.0) == (day.km2_per_hour, day.price_per_1000_km2)


def test_four_workers_take_a_quarter_of_the_time_for_the_same_price() -> None:
    day = simulate(replace(EVEN, workers=4))
    assert (0.25, 2.0) == (day.finished_hours, day.price_per_1000_km2)


def test_workers_that_wait_for_scenes_cost_all_the_same() -> None:
    day = simulate(replace(EVEN, hours=10.0, workers=4))
    assert day.busy < 0.05
    assert day.price_per_1000_km2 > 50


def test_a_death_costs_the_lease_and_the_work_that_was_lost_but_no_scene() -> None:
    calm, wild = simulate(EVEN), simulate(replace(EVEN, deaths=240.0))
    assert wild.repeated > 0
    assert wild.finished_hours > calm.finished_hours
