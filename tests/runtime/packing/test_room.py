"""Pictures that are decoded side by side have no more pixels together than there is room for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from naflex_deploy.runtime.packing.room import PixelRoom


def test_pictures_wait_for_room_and_a_larger_one_is_alone():
    room, lock = PixelRoom(10), threading.Lock()
    now: list[int] = []
    seen: list[tuple[int, ...]] = []
    both = threading.Barrier(2)

    def decode(pixels: int) -> None:
        with room.take(pixels):
            with lock:
                now.append(pixels)
                seen.append(tuple(now))
            if pixels == 5:
                both.wait(60)  # two of them have room at the same time
            with lock:
                now.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [5, 5, 7, 30, 4, 6, 40, 10, 3]))
    assert not now
    assert len(seen) == 9
    assert all(sum(pixels) <= 10 or len(pixels) == 1 for pixels in seen)
    with room.take(10):
        pass  # everything was given back
