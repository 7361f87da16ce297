/* Options of lwIP 2.2.1, each with its reason. */
#ifndef LWIPOPTS_H
#define LWIPOPTS_H

#include "sizes.h"

/* --- System --- */
#define NO_SYS               1 /* an event loop, no threads */
#define SYS_LIGHTWEIGHT_PROT 0 /* lwIP is never entered from an interrupt handler */
#define LWIP_NETCONN         0 /* needs threads */
#define LWIP_SOCKET          0 /* needs threads */
#define LWIP_NETIF_API       0 /* needs threads */
#define LWIP_TIMERS          1 /* sys_check_timeouts() from the executive */
#define LWIP_CALLBACK_API    1 /* raw API */
#define LWIP_STATS           0 /* the firmware counts what it needs */

/* --- Memory --- */
#ifdef TWINSTACK_HOST
#define MEM_ALIGNMENT 8 /* 64-bit PC */
#else
#define MEM_ALIGNMENT 4 /* 32-bit core */
#endif
#define LWIP_RAM_HEAP_POINTER    platform_heap /* in the memory that the TX engine reads */
#define MEM_SIZE                 LWIP_HEAP_BYTES
#define MEMP_OVERFLOW_CHECK      0                    /* the sanitizers of the PC build do this */
#define LWIP_SUPPORT_CUSTOM_PBUF 1                    /* received frames are pbufs around RX buffers */
#define MEMP_NUM_PBUF            (2 * TX_BUFFERS + 8) /* TCP data by reference: one for each piece of a segment */
#define MEMP_NUM_TCP_PCB         TCP_PCBS
#define MEMP_NUM_TCP_PCB_LISTEN  LISTENERS
#define MEMP_NUM_TCP_SEG         TCP_SEGMENTS
#define MEMP_NUM_REASSDATA       2 /* datagrams in reassembly: their frames hold RX buffers */
#define MEMP_NUM_FRAG_PBUF       0 /* IP_FRAG is off */
#define MEMP_NUM_SYS_TIMEOUT     (LWIP_NUM_SYS_TIMEOUT_INTERNAL + 1)
#define PBUF_POOL_SIZE           1  /* nothing allocates from it, lwIP wants one */
#define PBUF_POOL_BUFSIZE        64 /* as small as lwIP allows with TCP off the pool */

/* --- Link and network layer --- */
#define LWIP_ARP                  1
#define LWIP_ETHERNET             1
#define ETH_PAD_SIZE              2  /* FRAME_PAD_BYTES: L3 headers are word aligned */
#define ETHARP_SUPPORT_VLAN       0  /* tagged frames are for nobody yet */
#define ARP_TABLE_SIZE            16 /* 24 bytes each */
#define ARP_QUEUEING              1 /* several SYN/ACKs may wait: the answer to the peer's request went to the manager */
#define ARP_QUEUE_LEN             8
#define MEMP_NUM_ARP_QUEUE        8 /* 8 bytes each */
#define ETHARP_TABLE_MATCH_NETIF  1 /* two ports may see the same address */
#define LWIP_SINGLE_NETIF         0 /* one netif for each port */
#define LWIP_NETIF_LOOPBACK       0 /* the host loops by itself */
#define LWIP_HAVE_LOOPIF          0
#define LWIP_NETIF_TX_SINGLE_PBUF 0 /* the TX engine gathers */
#define LWIP_IPV4                 1
#define IP_FORWARD                0 /* an end system */
#define IP_FRAG                   0 /* TCP never needs it, pings are bounded by the MTU */
#define IP_REASSEMBLY             1 /* done from the IPv4 hook, so that foreign flows never reach TCP */
#define IP_REASS_MAX_PBUFS        6 /* RX buffers that fragments may hold */
#define IP_REASS_MAXAGE           5 /* seconds; RX buffers are few */
#define IP_REASS_FREE_OLDEST      1 /* the newest datagram has the best chance */
#define IP_OPTIONS_ALLOWED        1
#define LWIP_ICMP                 1
#define LWIP_BROADCAST_PING       0 /* RFC 1122 3.2.2.6 permits silence */
#define LWIP_MULTICAST_PING       0
#define LWIP_RAW                  0 /* nobody uses it */
#define LWIP_UDP                  1 /* a datagram to a closed port gets its ICMP answer */
#define MEMP_NUM_UDP_PCB          (UDP_SOCKETS + UDP_SPREAD + 2) /* and DHCP and DNS */
#define LWIP_DHCP                 1                              /* on the manager */
#define LWIP_DHCP_DOES_ACD_CHECK  0 /* 2.5 KB of code; the server has probed (RFC 2131 2.2) */
#define LWIP_DHCP_MAX_DNS_SERVERS DNS_IPV4_SERVERS
#define LWIP_DNS                  1
#define DNS_IPV4_SERVERS          2 /* of a port, configured or from its lease */
#define DNS_MAX_SERVERS           (TS_CONFIG_PORTS * (DNS_IPV4_SERVERS + 1)) /* one more from router advertisements */
#define DNS_TABLE_SIZE            4
#define DNS_MAX_NAME_LENGTH       128
#define LWIP_IGMP                 1                                    /* UDP sockets join groups */
#define MEMP_NUM_IGMP_GROUP       (TS_CONFIG_PORTS * (UDP_GROUPS + 1)) /* and all systems */
#define LWIP_AUTOIP               0
#define LWIP_ACD                  0

/* --- IPv6: the same addresses on every core, each with its own caches --- */
#define LWIP_IPV6               1
#define LWIP_IPV6_NUM_ADDRESSES 3 /* link-local and two more */
#define LWIP_IPV6_FRAG          0 /* nothing is longer than the MTU */
#define LWIP_IPV6_REASS         1
#ifdef TWINSTACK_HOST
#define IPV6_FRAG_COPYHEADER 1 /* 64-bit pointers */
#endif
#define IPV6_REASS_MAXAGE             5 /* seconds; RX buffers are few */
#define LWIP_IPV6_FORWARD             0
#define LWIP_IPV6_AUTOCONFIG          1
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 1 /* RFC 4862 5.1 */
#define LWIP_IPV6_MLD                 1
#define MEMP_NUM_MLD6_GROUP                                                                                  \
    (TS_CONFIG_PORTS * (LWIP_IPV6_NUM_ADDRESSES + UDP_GROUPS)) /* of our addresses, and those of sockets */
#define LWIP_ICMP6_DATASIZE            8 /* quoted in errors beyond the IPv6 header: the ports */
#define LWIP_ND6_QUEUEING              1
#define MEMP_NUM_ND6_QUEUE             4
#define LWIP_ND6_NUM_NEIGHBORS         8
#define LWIP_ND6_NUM_DESTINATIONS      8
#define LWIP_ND6_NUM_PREFIXES          3
#define LWIP_ND6_NUM_ROUTERS           2
#define LWIP_ND6_RDNSS_MAX_DNS_SERVERS 1

/* --- Checksums: TX engine and parser do IPv4, TCP, UDP --- */
#define CHECKSUM_GEN_IP       0
#define CHECKSUM_GEN_UDP      0
#define CHECKSUM_GEN_TCP      0
#define CHECKSUM_GEN_ICMP     1 /* not in hardware */
#define CHECKSUM_GEN_ICMP6    0 /* in hardware */
#define CHECKSUM_CHECK_IP     0 /* netif.c checks what the parser could not */
#define CHECKSUM_CHECK_UDP    0
#define CHECKSUM_CHECK_TCP    0
#define CHECKSUM_CHECK_ICMP   1 /* rare, and so those of fragments need nothing else */
#define CHECKSUM_CHECK_ICMP6  1
#define LWIP_CHECKSUM_ON_COPY 0 /* nothing is copied */

/* --- TCP --- */
#define LWIP_TCP                  1
#define TCP_MSS                   1460                             /* Ethernet */
#define TCP_WND                   (SOCKET_QUOTA_BUFFERS * TCP_MSS) /* announced in a SYN only; see window.c */
#define TCP_SND_BUF               (SOCKET_TX_BUFFERS * TCP_MSS) /* bytes that may wait for an acknowledgement */
#define TCP_SND_QUEUELEN          (4 * SOCKET_TX_BUFFERS)       /* pbufs: header and data, and small pieces */
#define TCP_SNDLOWAT              TCP_MSS /* unused by the raw API; lwIP checks it against TCP_SND_BUF */
#define TCP_SNDQUEUELOWAT         4       /* likewise, against TCP_SND_QUEUELEN */
#define TCP_WND_UPDATE_THRESHOLD  (2 * TCP_MSS) /* window.c tells the peer without a reason to acknowledge */
#define LWIP_TCP_PCB_NUM_EXT_ARGS 1             /* the window of a SYN/ACK, see window.c */
#define TCP_OVERSIZE              0             /* data is never copied, so there is no room to keep */
#define TCP_QUEUE_OOSEQ           1             /* without it each loss becomes go-back-N */
#define TCP_OOSEQ_MAX_PBUFS       4             /* RX buffers that one connection may hold out of order */
#define TCP_LISTEN_BACKLOG        1             /* connections wait for an ACCEPT */
#define TCP_TMR_INTERVAL          100           /* ms; the default of 250 makes loss recovery slow */
#define TCP_SYNMAXRTX             4             /* a dead peer is reported within about 20 s */
#define TCP_MSL                   5000UL        /* ms; TIME_WAIT of 10 s, PCBs are few */
#define LWIP_TCP_RTO_TIME         1000          /* RFC 6298 2.1 */
#define LWIP_TCP_SACK_OUT         0             /* 20 bytes each PCB, and the sender of lwIP uses none */
#define LWIP_TCP_TIMESTAMPS       0             /* the study measured +170 instructions a segment */
#define LWIP_WND_SCALE            1             /* for what the peer announces; ours stay far below 64 KiB */
#define TCP_RCV_SCALE             0
#define LWIP_TCP_KEEPALIVE        1 /* times of each connection */
#define SO_REUSE                  1 /* a listener's port may also be that of its old connections */
#define LWIP_DISABLE_TCP_SANITY_CHECKS                                                                       \
    1 /* they measure the window against the PBUF_POOL that nothing uses                                     \
       */

/* --- The small profile, see docs/firmware.md --- */
#ifdef TWINSTACK_SMALL
#undef LWIP_DHCP
#define LWIP_DHCP 0
#undef LWIP_DNS
#define LWIP_DNS 0
#undef LWIP_IGMP
#define LWIP_IGMP 0
#undef IP_REASSEMBLY
#define IP_REASSEMBLY 0
#undef LWIP_UDP
#define LWIP_UDP 0
#undef LWIP_IPV6_MLD
#define LWIP_IPV6_MLD 0
#undef LWIP_IPV6_REASS
#define LWIP_IPV6_REASS 0
#undef LWIP_ND6_QUEUEING
#define LWIP_ND6_QUEUEING               0
#define LWIP_ND6_TCP_REACHABILITY_HINTS 0
#undef LWIP_IPV6_NUM_ADDRESSES
#define LWIP_IPV6_NUM_ADDRESSES 1
#undef LWIP_ND6_NUM_NEIGHBORS
#define LWIP_ND6_NUM_NEIGHBORS 1
#undef LWIP_ND6_NUM_DESTINATIONS
#define LWIP_ND6_NUM_DESTINATIONS 1
#undef LWIP_ND6_NUM_PREFIXES
#define LWIP_ND6_NUM_PREFIXES 1
#undef LWIP_ND6_NUM_ROUTERS
#define LWIP_ND6_NUM_ROUTERS 1
#undef ARP_TABLE_SIZE
#define ARP_TABLE_SIZE 10
#endif

/* --- Hooks --- */
#define LWIP_HOOK_FILENAME         "lwip_hooks.h"
#define LWIP_NETIF_STATUS_CALLBACK 1 /* leases of DHCP come and go */

#if TCP_WND < TCP_MSS || TCP_WND > 0xFFFF
#error "the quota must hold a segment and fit the window field"
#endif
#if MEM_SIZE < 4096
#error "a ping of 1500 bytes and its answer must fit the heap"
#endif

extern unsigned char *const platform_heap;

#endif
