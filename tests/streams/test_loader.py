from __future__ import annotations

import pytest

from yolo_uncert.streams.loader import Streams
from yolo_uncert.streams.reader import Rules


def streams(*tapes, most=None, **rules):
    films = dict(enumerate(tapes))
    names = [f"s{i}" for i in films]
    return Streams(
        [f"http://{i}" for i in films],
        names,
        Rules(**{"patience": 0.2, **rules}),
        most,
        opener=lambda url: films[int(url.removeprefix("http://"))](url),
    )


def test_no_stream_waits_for_another(tape, until):
    first, second = tape(), tape()
    loader = iter(streams(first, second))
    first.put(1)
    assert (next(loader)[0], loader.slots, loader.numbers, loader.count) == (["s0"], [0], [0], 0)
    first.put(2)
    second.put(3)
    until(lambda: all(reader.waiting for reader in loader.readers))
    names, images, info = next(loader)
    assert (names, loader.slots, loader.numbers, info) == (["s0", "s1"], [0, 1], [1, 0], ["", ""])
    assert [int(image[0, 0, 0]) for image in images] == [2, 3]
    assert (loader.bs, len(loader), loader.mode, loader.source_type.stream) == (2, 2, "stream", True)
    assert len(loader.captured) == 2
    first.put(None), second.put(None)
    loader.close()


def test_stream_that_is_given_up_leaves_the_others_alone(tape, until, caplog):
    first, second = tape(), tape(total=4)
    loader = iter(streams(first, second, keep=10))
    until(lambda: first.refused < 0)  # it has been opened
    first.refused = 10**6
    first.put(1, None)
    until(lambda: loader.readers[0].done)
    second.put(1, 2, 3, 4, None)
    assert sorted(name for names, _, _ in loader for name in names) == ["s0", *["s1"] * 4]
    assert "s0: given up" in caplog.text


def test_end_of_all(tape):
    films = tape(total=2), tape(total=1)
    films[0].put(1, 2, None)
    films[1].put(5, None)
    names = [name for names, _, _ in streams(*films, keep=5) for name in names]
    assert sorted(names) == ["s0", "s0", "s1"]


def test_streams_take_turns_where_a_batch_cannot_hold_them(tape, until):
    films = tape(total=2), tape(total=2), tape(total=2)
    for film in films:
        film.put(1, 2, None)
    loader = iter(streams(*films, keep=5, most=1))
    until(lambda: all(reader.done for reader in loader.readers))
    assert [names for names, _, _ in loader] == [["s0"], ["s1"], ["s2"]] * 2


def test_nothing_from_anywhere_is_an_error(tape):
    film = tape()
    film.refused = 10**6
    with pytest.raises(ConnectionError, match="no frame from s0"):
        next(iter(streams(film)))


def test_close_stops_the_threads(camera):
    cam = camera()
    loader = iter(Streams([cam.url], ["cam"], Rules()))
    next(loader)
    loader.close()
    assert not loader.readers[0]._thread.is_alive()
