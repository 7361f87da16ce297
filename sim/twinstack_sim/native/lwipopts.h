/* Options of the lwIP peer on the PC. Times marked -D come from the Python side (PeerOptions). */
#ifndef TWINSTACK_PEER_LWIPOPTS_H
#define TWINSTACK_PEER_LWIPOPTS_H

#ifndef PEER_TCP_TIMER_MS
#error "PEER_TCP_TIMER_MS must be given with -D"
#endif

#define NO_SYS               1 /* raw API from one thread */
#define SYS_LIGHTWEIGHT_PROT 0 /* nothing interrupts it */
#define LWIP_NETCONN         0
#define LWIP_SOCKET          0
#define LWIP_TIMERS          1

#define MEM_ALIGNMENT   8 /* 64-bit PC */
#define MEM_LIBC_MALLOC 1 /* no pool sizes: the engine is what is tested for running out */
#define MEMP_MEM_MALLOC 1

#define LWIP_IPV4                     1
#define LWIP_IPV6                     1
#define LWIP_ARP                      1
#define LWIP_ETHERNET                 1
#define LWIP_ICMP                     1
#define LWIP_ICMP6                    1
#define LWIP_RAW                      1 /* ping */
#define LWIP_UDP                      1
#define LWIP_TCP                      1
#define LWIP_DHCP                     0
#define LWIP_DNS                      0
#define LWIP_IGMP                     0
#define LWIP_IPV6_MLD                 0 /* no switch on the wire listens */
#define LWIP_IPV6_AUTOCONFIG          0 /* addresses are given */
#define LWIP_IPV6_SEND_ROUTER_SOLICIT 0
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0 /* they are known to be unique; saves a second of simulated time */
#define IP_REASSEMBLY                 1
#define IP_FRAG                       1
#define IP_REASS_MAX_PBUFS            100
#define IPV6_FRAG_COPYHEADER          1  /* pointers of 8 bytes do not fit the fragment header */
#define ARP_QUEUE_LEN                 64 /* a fragmented datagram waits whole */
#define ARP_QUEUEING                  1  /* the first segments must not be lost while ARP asks */
#define SO_REUSE                      1  /* listen again while old connections are in TIME_WAIT */

/* The peer is the independent judge of the engine's checksums. */
#define CHECKSUM_CHECK_IP    1
#define CHECKSUM_CHECK_UDP   1
#define CHECKSUM_CHECK_TCP   1
#define CHECKSUM_CHECK_ICMP  1
#define CHECKSUM_CHECK_ICMP6 1
#define CHECKSUM_GEN_IP      1
#define CHECKSUM_GEN_UDP     1
#define CHECKSUM_GEN_TCP     1
#define CHECKSUM_GEN_ICMP    1
#define CHECKSUM_GEN_ICMP6   1

#define TCP_MSS            PEER_TCP_MSS         /* -D */
#define TCP_WND            PEER_TCP_WINDOW      /* -D */
#define TCP_SND_BUF        PEER_TCP_SEND_BUFFER /* -D */
#define TCP_SND_QUEUELEN   (4 * (TCP_SND_BUF) / (TCP_MSS) + 8)
#define TCP_SNDLOWAT       ((TCP_SND_BUF) / 2)
#define TCP_SNDQUEUELOWAT  ((TCP_SND_QUEUELEN) / 2)
#define TCP_QUEUE_OOSEQ    1
#define TCP_LISTEN_BACKLOG 1
#define TCP_OVERSIZE       TCP_MSS
#define TCP_TMR_INTERVAL   PEER_TCP_TIMER_MS /* -D; 250 ms of simulated time is minutes of waiting */
#define LWIP_TCP_RTO_TIME  PEER_TCP_RTO_MS   /* -D; first retransmission time-out */
#define TCP_MSL            PEER_TCP_MSL_MS   /* -D */

#define LWIP_STATS         1 /* tests look at checksum errors and retransmissions */
#define LWIP_STATS_DISPLAY 0
#define MIB2_STATS         1
#define LWIP_STATS_LARGE   1

#define LWIP_HOOK_TCP_ISN(local_ip, local_port, remote_ip, remote_port) peer_random()

#endif
