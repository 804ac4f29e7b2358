"""Telling an engine that fails on everything from pairs that no engine could read."""

import asyncio

import pytest

from scopewatch.errors import EngineDied, EngineError
from scopewatch.pipeline.vitality import Vitality
from virtual_time import in_virtual_time


class Patient:
    """An engine that can be made to fail, and those who are told of its health."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        """What each probe meets, one after another; None where it works, as it does after the last."""
        self.probes = 0
        self.told: list[tuple[float, bool]] = []
        """The seconds at which somebody was told, and what."""
        self.vitality = Vitality(self.probe, self.tell)

    async def probe(self) -> None:
        self.probes += 1
        if self.failures and (failure := self.failures.pop(0)):
            raise failure

    async def tell(self, works: bool) -> None:
        self.told.append((asyncio.get_running_loop().time(), works))

    def batches(self, *failed: bool) -> None:
        for one in failed:
            self.vitality.batch_ended(one)


def after(seconds: float, patient: Patient, *failed: bool) -> Patient:
    """Lets batches end, and the time pass."""

    async def run() -> None:
        patient.batches(*failed)
        await asyncio.sleep(seconds)
        await patient.vitality.close()

    in_virtual_time(run())
    return patient


FAILURE = EngineError("no memory")


def test_an_engine_that_fails_on_every_text_is_sick_until_it_works() -> None:
    """After three batches that failed whole and a probe that fails, it is told of; then when a probe works again."""
    patient = after(60, Patient(FAILURE, RuntimeError(), FAILURE), True, True, True)

    assert patient.told == [(0.0, False), (6.0, True)]
    assert patient.probes == 4


@pytest.mark.parametrize("batches", [(True, True), (True, True, False, True, True)])
def test_fewer_failures_in_a_row_prove_nothing(batches: tuple[bool, ...]) -> None:
    """Two batches that fail, or three with one between that did not, are no reason to ask."""
    assert after(60, Patient(FAILURE), *batches).probes == 0


def test_pairs_that_nobody_could_read_are_their_own_fault() -> None:
    """Where the probe works nobody is told, and the count starts anew."""
    patient = Patient()

    async def run() -> None:
        for _ in range(5):
            patient.batches(True)
            await asyncio.sleep(1)

    in_virtual_time(run())
    assert (patient.told, patient.probes) == ([], 1)


def test_it_is_watched_again_after_it_recovered() -> None:
    """A second illness is told of like the first."""
    patient = Patient(FAILURE, None, FAILURE, None)

    async def run() -> None:
        for _ in range(2):
            patient.batches(True, True, True)
            await asyncio.sleep(10)

    in_virtual_time(run())
    assert [works for _, works in patient.told] == [False, True, False, True]


def test_a_dead_engine_is_not_probed_again() -> None:
    """Death is told of elsewhere, and ends the probes."""
    patient = after(60, Patient(FAILURE, EngineDied("gone")), True, True, True)

    assert (patient.told, patient.probes) == ([(0.0, False)], 2)


def test_closing_ends_the_probes() -> None:
    """Nothing runs on after the end."""
    patient = Patient(*[FAILURE] * 100)

    async def run() -> None:
        patient.batches(True, True, True)
        await asyncio.sleep(3)
        await patient.vitality.close()
        await asyncio.sleep(60)

    in_virtual_time(run())
    assert patient.probes == 2
