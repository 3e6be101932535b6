from __future__ import annotations

import logging
import math
import time

import pytest

from yolo_uncert.streams.capture import FALLBACK_FPS
from yolo_uncert.streams.reader import Reader, Rules, delays

QUICK = Rules(patience=5.0)


@pytest.fixture
def read(request):
    """Maker of running readers of a tape, stopped at the end of the test."""

    def start(tape, rules=QUICK, source="http://camera"):
        reader = Reader(source, "cam", rules, opener=tape)
        reader.start()
        request.addfinalizer(lambda: (tape.put(None), reader.stop()))
        return reader

    return start


def values(reader):
    taken = []
    while reader.waiting:
        taken.append(int(reader.take().image[0, 0, 0]))
    return taken


def test_slow_model_sees_the_newest_frame_alone(tape, read, until):
    film = tape()
    reader = read(film)
    film.put(1, 2, 3, 4, 5)
    until(lambda: reader.frames == 5)
    frame = reader.take()
    assert (frame.number, frame.image[0, 0, 0]) == (4, 5)
    assert (reader.dropped, reader.waiting) == (4, False)
    assert 0 <= time.perf_counter() - frame.captured < 10
    with pytest.raises(IndexError):
        reader.take()


def test_buffer_of_a_live_stream_drops_its_oldest(tape, read, until):
    film = tape()
    reader = read(film, Rules(keep=3, patience=5.0))
    film.put(1, 2, 3, 4, 5)
    until(lambda: reader.frames == 5)
    assert values(reader) == [3, 4, 5]
    assert reader.dropped == 2


def test_nothing_of_a_recording_is_dropped(tape, read, until):
    film = tape(total=50)
    film.put(*range(50), None)
    reader = read(film)
    seen = []
    while not reader.done or reader.waiting:
        until(lambda: reader.waiting or reader.done)
        seen += values(reader)
    assert seen == list(range(50))
    assert (reader.dropped, reader.reconnects, film.opened) == (0, 0, 1), "it has an end, which is no loss"
    assert film.released == 1


@pytest.mark.parametrize("stride", [1, 3])
def test_recording_that_ends_before_its_time_is_reported(tape, read, until, caplog, stride):
    film = tape(total=50)
    film.put(*range(24), "garbage", *range(25, 30), None)
    reader = read(film, Rules(keep=99, stride=stride))
    until(lambda: reader.done)
    assert reader.cut == "is damaged, cut off or lost: 30 of 50 frames were read"
    assert f"cam: {reader.cut}" in caplog.text
    assert film.opened == 1, "from its start it would come twice"


def test_recording_that_nobody_wants_any_more_is_neither_dropped_nor_cut(tape, read, until):
    film = tape(total=50)
    film.put(*range(50))
    reader = read(film)
    until(lambda: reader.frames == 2)  # one waits in the queue, one for it
    reader.stop()
    assert reader.done
    assert (reader.dropped, reader.cut) == (0, "")


def test_recording_on_a_camera_server_comes_at_its_own_pace_and_ends(tape, read, until):
    film = tape(total=3)
    film.put(1, 2, 3, None)
    reader = read(film, source="rtsp://server/film")
    until(lambda: reader.done)
    assert values(reader) == [3]
    assert (reader.live, reader.dropped, film.opened) == (True, 2, 1)


@pytest.mark.parametrize(
    ("claimed", "fps"), [(29.97, 29.97), (0.0, FALLBACK_FPS), (90_000.0, FALLBACK_FPS), (math.nan, FALLBACK_FPS)]
)
def test_rate(tape, read, until, claimed, fps):
    film = tape(fps=claimed, total=-9.2e18)
    reader = read(film)
    film.put(1)
    until(lambda: reader.waiting)
    assert (reader.fps, reader.live) == (fps, True)


def test_stride_and_frames_that_cannot_be_decoded(tape, read, until):
    film = tape(total=9)
    film.put(1, 2, 3, 4, 5, "garbage", 7, 8, None)
    reader = read(film, Rules(keep=9, stride=2))
    until(lambda: reader.done)
    assert values(reader) == [2, 4, 8]


def test_grey_images_for_a_grey_model(tape, read, until):
    film = tape()
    reader = read(film, Rules(channels=1, patience=5.0))
    film.put(7)
    until(lambda: reader.waiting)
    assert reader.take().image.shape == (2, 2, 1)


def test_lost_stream_comes_back(tape, read, until, caplog):
    caplog.set_level(logging.INFO)
    film = tape()
    reader = read(film)
    film.put(1)
    until(lambda: reader.waiting)
    film.refused = 2  # two attempts fail
    film.put(None, 2)
    until(lambda: reader.frames == 2)
    assert (reader.take().number, reader.reconnects, film.opened) == (1, 1, 4)
    assert film.released == 3, "each capture but the one in use"
    messages = [r.getMessage() for r in caplog.records]
    assert any("cam: lost after 1 frames, trying again for 5 s" in m for m in messages)
    assert any("cam: back after" in m for m in messages)


def test_stream_that_stays_away_is_given_up(tape, read, until, caplog):
    film = tape()
    reader = read(film, Rules(patience=0.3))
    film.put(1)
    until(lambda: reader.waiting)
    film.refused = 10**6
    film.put(None)
    until(lambda: reader.done)
    assert values(reader) == [1], "what arrived before is not lost"
    assert "cam: given up, no frame for 0.3 s" in caplog.text


def test_server_that_accepts_but_sends_nothing_is_given_up_as_well(tape, read, until):
    film = tape()
    film.put(*[None] * 50)
    reader = read(film, Rules(patience=0.5))
    until(lambda: reader.done)
    assert reader.frames == 0
    assert film.opened <= 4, "it is not asked again without a pause"


def test_camera_that_is_not_there_is_no_matter_of_patience(tape, read, caplog):
    film = tape()
    film.refused = 1
    assert read(film, source=0).done
    assert (film.opened, "cam: cannot be opened" in caplog.text) == (1, True)


def test_standard_input_that_is_no_video_cannot_be_read_again(tape, read, until, caplog):
    film = tape()
    film.refused = 10**6
    reader = read(film, source="pipe:0")
    until(lambda: reader.done)
    assert (film.opened, "cam: is no video" in caplog.text) == (1, True)


def test_exception_of_a_decoder_ends_its_stream_with_a_message(tape, read, until, caplog):
    film = tape()
    film.retrieve = lambda: 1 / 0
    reader = read(film)
    film.put(1)
    until(lambda: reader.done)
    assert "cam: ZeroDivisionError" in caplog.text
    assert film.released == 1


def test_stop_interrupts_a_pause_and_a_full_queue(tape):
    for film, source in ((tape(), "http://a"), (tape(total=9), "file.mp4")):
        film.put(1, 2, 3)
        if source == "http://a":
            film.put(None)
            film.refused = 1  # opens once
        reader = Reader(source, "cam", Rules(patience=1000.0), opener=film)
        reader.start()
        film.refused = 10**6
        reader.stop(5)
        assert not reader._thread.is_alive()
        reader.stop()


def test_delays_double_up_to_a_limit_with_a_random_part():
    upper = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    for _, attempt in zip(range(5), iter(lambda: delays(), None), strict=False):
        for limit, delay in zip(upper, attempt, strict=False):
            assert limit / 2 <= delay <= limit
    assert next(delays()) != next(delays())
