"""A serial line, bit by bit, for cocotb benches."""

from cocotb.triggers import FallingEdge, Timer
from cocotb.utils import get_sim_time


class Line:
    """The far end of a line: drives ``pin``, or watches one.

    Parameters
    ----------
    pin : handle or None
        What is driven.
    bit_ps : float
        Picoseconds of a bit.
    rng : random.Random
        For spikes.
    spike_ps : int
        If not zero, each bit is wrong for so long, somewhere inside it.
    """

    def __init__(self, pin, bit_ps, rng, spike_ps=0):
        self.pin, self.bit_ps, self.rng, self.spike_ps = pin, bit_ps, rng, spike_ps
        self._end = None  # when the bit under way ends: rounding does not add up

    async def hold(self, level, bits):
        """Keep the line at ``level`` for ``bits`` bit times."""
        now = get_sim_time("ps")
        if self._end is None or self._end < now - 1:
            self._end = now
        self._end += bits * self.bit_ps
        self.pin.value = level
        if self.spike_ps and bits == 1:
            at = self.rng.randrange(int(self.bit_ps * 0.2), int(self.bit_ps * 0.8) - self.spike_ps)
            await Timer(at, "ps")
            self.pin.value = 1 - level
            await Timer(self.spike_ps, "ps")
            self.pin.value = level
        left = round(self._end - get_sim_time("ps"))
        if left > 0:
            await Timer(left, "ps")

    async def idle(self, bits):
        await self.hold(1, bits + 1e-9)

    async def send(self, value, stop=1):
        """One frame."""
        for level in (0, *(value >> n & 1 for n in range(8)), stop):
            await self.hold(level, 1)
        self.pin.value = 1

    async def send_all(self, data):
        for value in data:
            await self.send(value)

    async def receive(self, pin):
        """The next byte on ``pin`` and when it began; its stop bit is checked."""
        await FallingEdge(pin)
        start = get_sim_time("ps")
        await Timer(round(self.bit_ps / 2), "ps")
        levels = [int(pin.value)]
        for _ in range(9):
            await Timer(round(self.bit_ps), "ps")
            levels.append(int(pin.value))
        assert levels[0] == 0 and levels[9] == 1, levels
        return sum(level << n for n, level in enumerate(levels[1:9])), start

    async def watch(self, pin, count):
        """The next ``count`` bytes on ``pin``, each with its start."""
        return [await self.receive(pin) for _ in range(count)]
