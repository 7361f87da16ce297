"""Statistics of a network port, in the terms of RFC 2819 (``etherStats``) and RFC 2863 (``if``): what ``mac.statistic_index`` chooses.

All are 64 bits wide, wrap, and start at zero with the bitstream. Octets count from the destination address to the end of
the FCS. Where the two documents leave something open:

- ``etherStats`` count what the port receives, whoever it is for; ``ifIn`` counts what passed the address filter. As RFC
  3635 section 3.2 says, ``ifInOctets`` and ``ifOutOctets`` include MAC control (pause) frames, the packet counters do not.
- An 802.1Q tag makes the longest legal frame 4 octets longer. Longer than the port's limit is oversize or jabber; a good
  frame above 1518 octets within the limit is in ``etherStatsPkts1024to1518Octets``.
- ``etherStatsDropEvents`` counts each lost frame. Lost frames are in no other ``etherStats`` counter.
"""

from __future__ import annotations

from enum import IntEnum


class Statistic(IntEnum):
    """Values of ``mac.statistic_index``; others read zero."""

    etherStatsDropEvents = 0
    etherStatsOctets = 1
    etherStatsPkts = 2
    etherStatsBroadcastPkts = 3
    etherStatsMulticastPkts = 4
    etherStatsCRCAlignErrors = 5
    etherStatsUndersizePkts = 6
    etherStatsOversizePkts = 7
    etherStatsFragments = 8
    etherStatsJabbers = 9
    etherStatsPkts64Octets = 10
    etherStatsPkts65to127Octets = 11
    etherStatsPkts128to255Octets = 12
    etherStatsPkts256to511Octets = 13
    etherStatsPkts512to1023Octets = 14
    etherStatsPkts1024to1518Octets = 15
    ifInOctets = 16
    ifInUcastPkts = 17
    ifInMulticastPkts = 18
    ifInBroadcastPkts = 19
    ifInDiscards = 20
    ifInErrors = 21
    ifOutOctets = 22
    ifOutUcastPkts = 23
    ifOutMulticastPkts = 24
    ifOutBroadcastPkts = 25
    ifOutDiscards = 26
    ifOutErrors = 27


STATISTICS: tuple[str, ...] = tuple(statistic.name for statistic in Statistic)
"""Names by index."""

__all__ = ["STATISTICS", "Statistic"]
