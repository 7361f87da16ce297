/* Sizes of everything that firmware allocates at compile time; the build prints what they add up to. */
#ifndef SIZES_H
#define SIZES_H

#include "twinstack_abi.h"
#include "twinstack_config.h"

#define RX_LARGE   TS_CONFIG_RX_LARGE_BUFFERS /* of 1,536 bytes; their indices come first */
#define RX_SMALL   TS_CONFIG_RX_SMALL_BUFFERS /* of 256 bytes */
#define RX_BUFFERS TS_CONFIG_RX_BUFFERS
#define TX_BUFFERS TS_CONFIG_TX_BUFFERS

#define LOG2_CEIL(n)                                                                                         \
    ((n) <= 4u ? 2u : (n) <= 8u ? 3u : (n) <= 16u ? 4u : (n) <= 32u ? 5u : (n) <= 64u ? 6u : 7u)

/* Buffers that each receive queue may hold; what one may not hold is reserved for the other. */
#define RX_FLOW_LARGE  (RX_LARGE - (RX_LARGE < 6u ? 1u : 2u))
#define RX_FLOW_SMALL  (RX_SMALL - (RX_SMALL < 6u ? RX_SMALL / 2u : 2u))
#define RX_OTHER_LARGE ((RX_LARGE + 2u) / 3u) /* two datagrams of three fragments each at once */
#define RX_OTHER_SMALL ((RX_SMALL + 1u) / 2u)

/* Each ring holds as many descriptors as its queue may hold buffers. */
#define RX_RING_LOG2          LOG2_CEIL(RX_FLOW_LARGE + RX_FLOW_SMALL)
#define RX_RING_ENTRIES       (1u << RX_RING_LOG2)
#define RX_OTHER_RING_LOG2    LOG2_CEIL(RX_OTHER_LARGE + RX_OTHER_SMALL)
#define RX_OTHER_RING_ENTRIES (1u << RX_OTHER_RING_LOG2)

#ifdef TWINSTACK_SMALL
#define TX_RING_LOG2 3u
#else
#define TX_RING_LOG2 4u /* frames on their way; more wait in TCP */
#endif
#define TX_RING_ENTRIES (1u << TX_RING_LOG2)
#define SQ_RING_LOG2    3u /* deliveries; more wait in the host's ring */
#define SQ_RING_ENTRIES (1u << SQ_RING_LOG2)
#ifdef TWINSTACK_SMALL
#define DMA_QUEUE 12u
#else
#define DMA_QUEUE 16u /* host DMA transfers of one direction, waiting or in hardware */
#endif
#define MESSAGE_QUEUE 8u /* messages to other cores that wait for space */

/* The shared region: port directory, masks of the multicast filters, fates of spread UDP sockets; what the dispatcher was set
 * to (rules.c); then handover.c. */
#define SHARED_MULTICAST_WORDS (2u * TS_CONFIG_CORES * TS_CONFIG_PORTS)
#define SHARED_SPREAD_WORDS    4u
#define DIRECTORY_ENTRIES      (TS_DIRECTORY_WORDS - SHARED_MULTICAST_WORDS - SHARED_SPREAD_WORDS)
#define SHARED_MULTICAST       (TS_SHARED_BASE + 4u * DIRECTORY_ENTRIES)
#define SHARED_SPREAD          (SHARED_MULTICAST + 4u * SHARED_MULTICAST_WORDS)
#define SHARED_RULES           (TS_SHARED_BASE + 4u * TS_DIRECTORY_WORDS)
#define RULES_BYTES            256u
#define INDIRECTION_ENTRIES    128u

#define SCRATCH_BYTES  128u /* small results on their way to host memory lie in the last TX buffer */
#define SCRATCH_PIECES (TS_TX_BUFFER_BYTES / SCRATCH_BYTES)

#ifdef TWINSTACK_SMALL
#define SOCKETS          16
#define LISTENERS        4
#define UDP_SOCKETS      1 /* none; arrays want one */
#define UDP_SPREAD       0u
#define OPERATIONS       34
#define TCP_PCBS         (SOCKETS + 2)
#define TX_FIRST_RESERVE 1u
#else
#ifndef SOCKETS
#define SOCKETS 64
#endif
#define LISTENERS        8
#define UDP_SOCKETS      16
#define UDP_SPREAD       SHARED_SPREAD_WORDS
#define OPERATIONS       98            /* operations that one core can have pending */
#define TCP_PCBS         (SOCKETS + 4) /* a few more for TIME_WAIT and half-open connections */
#define TX_FIRST_RESERVE 3u            /* TX buffers only for sockets that have none */
#endif
#define PINGS                4u                              /* in progress on a core */
#define RESOLVES             4u                              /* likewise, as lwIP's table has */
#define OPERATIONS_RESERVE   2u                              /* of them for CLOSE, ABORT and CANCEL only */
#define TCP_SEGMENTS         (SOCKETS + 2 * TX_RING_ENTRIES) /* a SYN or FIN for each socket, and data */
#define SOCKET_QUOTA_BUFFERS 2u              /* RX buffers of a socket without a posted RECV */
#define SOCKET_WINDOW_MAX    (8u * 1460u)    /* advertised at most */
#define SOCKET_TX_BUFFERS    8               /* TX buffers that one socket may hold */
#define RX_LARGE_RESERVE     (RX_LARGE / 2u) /* fewer of these, or of those, free: the quota is enforced */
#define RX_SMALL_RESERVE     (RX_SMALL / 2u)
/* Large buffers that no window promises: what the other queue may hold, or, without small buffers, room for control
 * traffic and acknowledgements. */
#define RX_CONTROL_RESERVE                                                                                   \
    (RX_SMALL != 0u ? RX_OTHER_LARGE : RX_LARGE - RX_FLOW_LARGE + (RX_LARGE >= 12u ? 1u : 0u))
#define RX_ACK_RESERVE (RX_SMALL == 0u ? RX_LARGE / 4u : 0u)
/* Free large buffers below which ports may send pause frames. After that each port delivers up to two more frames: one
 * is on the wire, another begins while a frame of ours is in front of the pause frame. Never so many that windows alone
 * would do it (docs/blocks/packet_memory.md). */
#define RX_UNPROMISED (RX_CONTROL_RESERVE + RX_ACK_RESERVE)
#define RX_WATERMARK  (RX_UNPROMISED < 1u + 2u * TS_CONFIG_PORTS ? RX_UNPROMISED : 1u + 2u * TS_CONFIG_PORTS)
#define TX_IN_FLIGHT  8u /* TX buffers in TCP beyond which a socket gets only one */

#define UDP_GROUPS 8u /* that the sockets of a core can have joined on each network port */
#define UDP_QUOTA  4u /* datagrams that wait for a receive of a socket */
#define UDP_KEPT   (RX_OTHER_LARGE + RX_OTHER_SMALL) /* datagrams of all sockets: each has a buffer */
#define UDP_KEPT_LARGE                                                                                       \
    (RX_OTHER_LARGE > 2u ? RX_OTHER_LARGE - 2u : 1u) /* buffers without a receive for them */
#define UDP_KEPT_SMALL (RX_OTHER_SMALL / 2u)
#define UDP_TX_QUOTA   4u /* TX buffers of a socket */
#define UDP_TX_SHARED  6u /* TX buffers of all beyond which a socket gets only one */
#define UDP_TX_MAX     (TX_BUFFERS < 10u ? TX_BUFFERS / 2u : 8u)

#ifdef TWINSTACK_SMALL
#define LWIP_HEAP_BYTES 4352
#elif defined(TWINSTACK_HOST)
#define LWIP_HEAP_BYTES 16384 /* structures are twice as large with 64-bit pointers */
#else
#define LWIP_HEAP_BYTES 8192 /* headers of segments in flight, and a ping of 1,500 bytes */
#endif

/* Linux error numbers, as the host expects them. */
#define E_NOENT        2
#define E_IO           5
#define E_BADF         9
#define E_AGAIN        11
#define E_NOMEM        12
#define E_ACCES        13
#define E_FAULT        14
#define E_BUSY         16
#define E_EXIST        17
#define E_INVAL        22
#define E_NFILE        23
#define E_NOSPC        28
#define E_PIPE         32
#define E_DESTADDRREQ  89
#define E_MSGSIZE      90
#define E_NOPROTOOPT   92
#define E_OPNOTSUPP    95
#define E_AFNOSUPPORT  97
#define E_ADDRINUSE    98
#define E_ADDRNOTAVAIL 99
#define E_NETUNREACH   101
#define E_CONNABORTED  103
#define E_CONNRESET    104
#define E_NOBUFS       105
#define E_ISCONN       106
#define E_NOTCONN      107
#define E_TIMEDOUT     110
#define E_CONNREFUSED  111
#define E_HOSTUNREACH  113
#define E_CANCELED     125

#endif
