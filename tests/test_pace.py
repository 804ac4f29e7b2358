"""What is learned of how long batches take, and what is foretold from it."""

import random

import pytest

from scopewatch.pipeline.pace import Pace
from scopewatch.pipeline.timetable import Timetable


def learned(*batches: tuple[int, float]) -> Pace:
    pace = Pace()
    for tokens, seconds in batches:
        pace.learn(tokens, seconds)
    return pace


class TestPace:
    def test_nothing_is_foretold_before_a_batch_was_measured(self) -> None:
        """Who knows nothing refuses nobody."""
        assert Pace().seconds_for(4096) == 0

    def test_the_fixed_part_and_that_of_each_token_are_told_apart(self) -> None:
        """From batches of different sizes both parts are found, so that sizes that never came are foretold."""
        pace = learned(*((tokens, 0.2 + 0.001 * tokens) for tokens in (100, 700, 300, 1000)))

        assert [pace.seconds_for(tokens) for tokens in (0, 500)] == pytest.approx([0.2, 0.7])

    def test_a_single_size_is_foretold_as_it_was(self) -> None:
        """As long as all batches are alike, one like them takes as long; a smaller one takes its part."""
        pace = learned(*[(100, 0.5)] * 3)

        assert [pace.seconds_for(tokens) for tokens in (100, 50)] == pytest.approx([0.5, 0.25])

    def test_large_batches_are_not_judged_by_small_ones(self) -> None:
        """Small batches of which chance made the larger ones slower do not make a large one look hopeless."""
        pace = learned(*[(10, 0.1), (10, 0.26), (20, 0.18), (20, 0.28)] * 10)

        assert pace.seconds_for(1000) < 0.5

    def test_what_grows_faster_than_its_tokens_is_foretold_about_right(self) -> None:
        """Neither part is ever less than nothing, and what was measured stays near what is foretold."""
        pace = learned(*[(100, 0.1), (200, 0.4)] * 20)

        assert pace.seconds_for(0) == 0
        assert pace.seconds_for(200) == pytest.approx(0.4, rel=0.15)

    def test_the_pace_of_today_counts(self) -> None:
        """An engine that became four times slower is known to be so after some batches."""
        pace = learned(*[(100, 0.1), (200, 0.2)] * 20, *[(100, 0.4), (200, 0.8)] * 30)

        assert pace.seconds_for(150) == pytest.approx(0.6, rel=0.1)

    def test_caution_grows_with_surprises(self) -> None:
        """Where batches take now longer, now shorter than foretold, the allowance is larger, and it is bounded."""
        dice = random.Random(1)
        steady = learned(*[(100, 0.1), (200, 0.2)] * 50)
        noisy = learned(*((100, 0.1 * dice.uniform(0.8, 1.2)) for _ in range(100)))
        wild = learned(*((100, 0.1 * dice.choice([0.1, 10])) for _ in range(100)))

        assert 1.1 <= steady.caution < 1.2 < noisy.caution < 1.5
        assert wild.caution == 2

    def test_at_most_grows_with_the_tokens(self) -> None:
        """What a batch may take at most grows in proportion beyond all that was measured, the warm-up included."""
        pace = Pace()
        pace.warmed_up(64, 0.5)

        assert pace.at_most_s(4096) == pytest.approx(32)
        assert pace.seconds_for(4096) == 0

    def test_what_was_reused_does_not_make_new_text_look_fast(self) -> None:
        """A batch of which all but little was known says how long that little takes."""
        pace = Pace()
        pace.learn(1000, 0.1, reused_tokens=990)

        assert pace.at_most_s(1000) == pytest.approx(10)
        assert pace.seconds_for(1000) == pytest.approx(0.1)

    def test_a_worthwhile_batch_is_read_at_its_share_of_the_best_rate(self) -> None:
        """The least size for a share of a large batch's rate, by the formula's own definition."""
        pace = learned(*((tokens, 0.2 + 0.0001 * tokens) for tokens in (100, 4000, 2000)))
        tokens = pace.tokens_at(0.9, 4000)

        assert tokens / pace.seconds_for(tokens) == pytest.approx(0.9 * 4000 / pace.seconds_for(4000), rel=0.01)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class TestTimetable:
    def test_a_batch_is_measured_from_the_end_of_the_one_before(self) -> None:
        """A batch that was handed over while another ran did not take the time that it waited for that one."""
        pace, clock = Pace(), Clock()
        timetable = Timetable(pace, 100, clock)
        first, second = timetable.begin(100), timetable.begin(100)
        for run in (first, second):
            clock.now += 3.0
            timetable.end(run, 100)

        assert pace.seconds_for(100) == pytest.approx(3.0)

    def test_what_is_in_hand_and_ahead_is_counted(self) -> None:
        """A pair ends after what is left of the running batch, the batch behind it, and the tokens ahead of its own."""
        pace, clock = learned(*[(50, 0.5), (100, 1.0)] * 200), Clock()
        timetable = Timetable(pace, 100, clock)
        timetable.begin(100)
        timetable.begin(50)
        clock.now += 0.25

        left_s, behind_s, ahead_and_own_s = 0.75, 0.5, 3.3
        expected_s = pace.caution * (left_s + behind_s + ahead_and_own_s)
        assert timetable.ends_s(30, ahead_tokens=300) - clock.now == pytest.approx(expected_s, rel=0.01)

    def test_the_fixed_part_counts_once_for_each_batch(self) -> None:
        """Many tokens ahead are several batches, each with its own fixed part."""
        pace, clock = learned(*[(50, 1.5), (100, 2.0)] * 200), Clock()
        timetable = Timetable(pace, 100, clock)

        assert timetable.ends_s(50, ahead_tokens=300) - clock.now == pytest.approx(pace.caution * 7.5, rel=0.01)

    def test_an_idle_engine_is_tried_when_its_pace_is_old(self) -> None:
        """What a slow batch taught does not keep an idle engine's callers out for ever."""
        clock = Clock()
        timetable = Timetable(Pace(), 100, clock)
        run = timetable.begin(10)
        running = timetable.tries
        timetable.end(run, 10)
        just_now = timetable.tries
        clock.now += 6.0

        assert (running, just_now, timetable.tries) == (False, False, True)
