/* lwIP as a station on the simulated wire, behind a small C API.
 *
 * Time is given by the caller. Everything is static, as in lwIP itself: each station is its own copy of this library.
 * Nothing calls back into the caller; it polls frames, events, and received data.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/icmp.h"
#include "lwip/icmp6.h"
#include "lwip/inet_chksum.h"
#include "lwip/init.h"
#include "lwip/ip.h"
#include "lwip/netif.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/prot/ip6.h"
#include "lwip/raw.h"
#include "lwip/stats.h"
#include "lwip/tcp.h"
#include "lwip/timeouts.h"
#include "lwip/udp.h"
#include "netif/ethernet.h"

#define PEER_API       __attribute__((visibility("default")))
#define PEER_ABI       1
#define MAX_SOCKETS    1024
#define PING_ID        0x7473
#define PING_MAX_BYTES 8000
#define ADDRESS_BYTES  48

enum event_type { EVENT_CONNECTED = 1, EVENT_ACCEPTED, EVENT_FIN, EVENT_CLOSED, EVENT_ERROR, EVENT_PING };

struct peer_event {
    int32_t type;
    int32_t socket;
    int32_t value;
};

struct block { /* an entry of a queue: a frame, or a datagram with its source */
    struct block *next;
    uint32_t length;
    uint16_t port;
    char address[ADDRESS_BYTES];
    uint8_t bytes[];
};

struct queue {
    struct block *head, **tail;
};

enum socket_kind { FREE = 0, LISTENER, STREAM, DATAGRAM };

struct socket {
    enum socket_kind kind;
    struct tcp_pcb *tcp; /* NULL once lwIP has, or will have, freed it */
    struct udp_pcb *udp;
    uint8_t *data; /* received and not yet read */
    size_t used, size;
    struct queue datagrams;
};

struct counters {
    uint32_t ip_checksum_errors;
    uint32_t icmp_checksum_errors;
    uint32_t udp_checksum_errors;
    uint32_t tcp_checksum_errors;
    uint32_t tcp_retransmissions;
    uint32_t frames_in;
    uint32_t frames_out;
};

static uint64_t now_ns;
static uint64_t random_state;
static struct netif station;
static struct queue outgoing = {NULL, &outgoing.head};
static struct peer_event *events;
static size_t event_count, event_size, event_read;
static struct socket sockets[MAX_SOCKETS];
static struct raw_pcb *ping4, *ping6;
static uint32_t frames_in, frames_out;

u32_t sys_now(void)
{
    return (u32_t)(now_ns / 1000000u);
}

uint32_t peer_random(void)
{ /* splitmix64 */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static void *need(void *memory)
{
    if (memory == NULL)
        abort(); /* the PC is out of memory */
    return memory;
}

static void queue_add(struct queue *queue, struct block *block)
{
    block->next = NULL;
    *queue->tail = block;
    queue->tail = &block->next;
}

static struct block *queue_take(struct queue *queue)
{
    struct block *block = queue->head;
    if (block == NULL)
        return NULL;
    queue->head = block->next;
    if (queue->head == NULL)
        queue->tail = &queue->head;
    return block;
}

static struct block *block_from_pbuf(struct pbuf *p)
{
    struct block *block = need(calloc(1, sizeof *block + p->tot_len));
    block->length = p->tot_len;
    pbuf_copy_partial(p, block->bytes, p->tot_len, 0);
    return block;
}

static void add_event(enum event_type type, int socket, int value)
{
    if (event_count == event_size) {
        event_size = event_size ? 2 * event_size : 64;
        events = need(realloc(events, event_size * sizeof *events));
    }
    events[event_count++] = (struct peer_event){type, socket, value};
}

/* ---- sockets ---- */

static int socket_new(enum socket_kind kind)
{
    for (int n = 0; n < MAX_SOCKETS; n++) {
        if (sockets[n].kind == FREE) {
            memset(&sockets[n], 0, sizeof sockets[n]);
            sockets[n].kind = kind;
            sockets[n].datagrams.tail = &sockets[n].datagrams.head;
            return n;
        }
    }
    return -1;
}

static struct socket *socket_get(int index, enum socket_kind kind)
{
    if (index < 0 || index >= MAX_SOCKETS || sockets[index].kind != kind)
        return NULL;
    return &sockets[index];
}

static void socket_free(struct socket *s)
{
    struct block *block;
    while ((block = queue_take(&s->datagrams)) != NULL)
        free(block);
    free(s->data);
    memset(s, 0, sizeof *s);
}

static int index_of(const struct socket *s)
{
    return (int)(s - sockets);
}

/* Let lwIP finish the connection alone. */
static void detach(struct socket *s)
{
    if (s->tcp == NULL)
        return;
    tcp_arg(s->tcp, NULL);
    tcp_recv(s->tcp, NULL);
    tcp_err(s->tcp, NULL);
    tcp_sent(s->tcp, NULL);
    s->tcp = NULL;
}

static err_t on_receive(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    struct socket *s = arg;
    (void)err;
    if (s == NULL) { /* detached: take and forget */
        if (p != NULL) {
            tcp_recved(pcb, p->tot_len);
            pbuf_free(p);
        }
        return ERR_OK;
    }
    if (p == NULL) {
        add_event(EVENT_FIN, index_of(s), 0);
        if (pcb->state == TIME_WAIT ||
            pcb->state == CLOSING) { /* both sides closed: lwIP frees it without a word */
            detach(s);
            add_event(EVENT_CLOSED, index_of(s), 0);
        }
        return ERR_OK;
    }
    if (s->used + p->tot_len > s->size) {
        s->size = 2 * (s->used + p->tot_len);
        s->data = need(realloc(s->data, s->size));
    }
    pbuf_copy_partial(p, s->data + s->used, p->tot_len, 0);
    s->used += p->tot_len;
    pbuf_free(p);
    return ERR_OK;
}

static void on_error(void *arg, err_t err)
{
    struct socket *s = arg;
    if (s == NULL)
        return;
    s->tcp = NULL; /* lwIP has freed it */
    if (err == ERR_CLSD) {
        add_event(EVENT_CLOSED, index_of(s), 0);
    } else {
        add_event(EVENT_ERROR, index_of(s), err);
    }
}

static void adopt(struct socket *s, struct tcp_pcb *pcb)
{
    s->tcp = pcb;
    tcp_arg(pcb, s);
    tcp_recv(pcb, on_receive);
    tcp_err(pcb, on_error);
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct socket *s = arg;
    (void)pcb;
    if (s != NULL)
        add_event(EVENT_CONNECTED, index_of(s), err);
    return ERR_OK;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct socket *listener = arg;
    if (err != ERR_OK || pcb == NULL)
        return ERR_VAL;
    const int index = socket_new(STREAM);
    if (index < 0) {
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    adopt(&sockets[index], pcb);
    add_event(EVENT_ACCEPTED, index, listener ? index_of(listener) : -1);
    return ERR_OK;
}

static void on_datagram(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *from, u16_t port)
{
    struct socket *s = arg;
    (void)pcb;
    struct block *block = block_from_pbuf(p);
    block->port = port;
    ipaddr_ntoa_r(from, block->address, ADDRESS_BYTES);
    queue_add(&s->datagrams, block);
    pbuf_free(p);
}

/* ---- ping ---- */

static uint8_t ping_byte(uint16_t sequence, unsigned n)
{
    return (uint8_t)(sequence * 7u + n);
}

/* lwIP hands raw sockets what it has not checked: the ICMP checksum (RFC 792, RFC 4443 section 2.3) is verified here. */
static u8_t on_ping(void *arg, struct raw_pcb *pcb, struct pbuf *p, const ip_addr_t *from)
{
    struct icmp_echo_hdr echo;
    (void)arg;
    (void)pcb;
    const int v6 = IP_IS_V6(from);
    const u16_t header = v6 ? IP6_HLEN : IPH_HL_BYTES((const struct ip_hdr *)p->payload);
    if (p->tot_len < header + sizeof echo)
        return 0;
    pbuf_copy_partial(p, &echo, sizeof echo, header);
    if (echo.type != (v6 ? ICMP6_TYPE_EREP : ICMP_ER) || echo.id != lwip_htons(PING_ID))
        return 0;
    pbuf_remove_header(p, header);
    const u16_t checksum = v6 ? ip6_chksum_pseudo(p, IP6_NEXTH_ICMP6, p->tot_len, ip6_current_src_addr(),
                                                  ip6_current_dest_addr())
                              : inet_chksum_pbuf(p);
    if (checksum != 0) {
        lwip_stats.icmp.chkerr++;
        pbuf_free(p);
        return 1;
    }
    const uint16_t sequence = lwip_ntohs(echo.seqno);
    const unsigned length = p->tot_len - (unsigned)sizeof echo;
    int value = (int)length;
    for (unsigned n = 0; n < length; n++) {
        if (pbuf_get_at(p, (u16_t)(sizeof echo + n)) != ping_byte(sequence, n))
            value = -1;
    }
    add_event(EVENT_PING, sequence, value);
    pbuf_free(p);
    return 1;
}

/* ---- the wire ---- */

static err_t send_frame(struct netif *netif, struct pbuf *p)
{
    (void)netif;
    queue_add(&outgoing, block_from_pbuf(p));
    frames_out++;
    return ERR_OK;
}

static err_t station_init(struct netif *netif)
{
    netif->name[0] = 'p';
    netif->name[1] = 'c';
    netif->output = etharp_output;
    netif->output_ip6 = ethip6_output;
    netif->linkoutput = send_frame;
    netif->mtu = 1500;
    netif->hwaddr_len = ETH_HWADDR_LEN;
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

/* ---- API ---- */

PEER_API uint32_t peer_abi(void)
{
    return PEER_ABI;
}

/* Addresses are texts; `gateway` and `address6` may be empty. Returns 0, or -1 for a text that is no address. */
PEER_API int peer_start(const uint8_t *mac, const char *address, const char *netmask, const char *gateway,
                        const char *address6, uint64_t seed)
{
    ip4_addr_t ip = {0}, mask = {0}, router = {0};
    ip6_addr_t ip6;
    if (!ip4addr_aton(address, &ip) || !ip4addr_aton(netmask, &mask))
        return -1;
    if (gateway[0] && !ip4addr_aton(gateway, &router))
        return -1;
    if (address6[0] && !ip6addr_aton(address6, &ip6))
        return -1;
    random_state = seed;
    lwip_init();
    memcpy(station.hwaddr, mac, ETH_HWADDR_LEN);
    if (netif_add(&station, &ip, &mask, &router, NULL, station_init, ethernet_input) == NULL)
        return -1;
    memcpy(station.hwaddr, mac, ETH_HWADDR_LEN);
    netif_set_default(&station);
    netif_set_up(&station);
    netif_create_ip6_linklocal_address(&station, 1);
    netif_ip6_addr_set_state(&station, 0, IP6_ADDR_PREFERRED);
    if (address6[0]) {
        s8_t index = -1;
        if (netif_add_ip6_address(&station, &ip6, &index) != ERR_OK || index < 0)
            return -1;
        netif_ip6_addr_set_state(&station, index, IP6_ADDR_PREFERRED);
    }
    ping4 = need(raw_new_ip_type(IPADDR_TYPE_V4, IP_PROTO_ICMP));
    raw_recv(ping4, on_ping, NULL);
    ping6 = need(raw_new_ip_type(IPADDR_TYPE_V6, IP6_NEXTH_ICMP6));
    ping6->chksum_reqd = 1; /* RFC 3542 section 3.1 */
    ping6->chksum_offset = 2;
    raw_recv(ping6, on_ping, NULL);
    return 0;
}

PEER_API void peer_stop(void)
{
    for (int n = 0; n < MAX_SOCKETS; n++) {
        struct socket *s = &sockets[n];
        if (s->kind == STREAM && s->tcp != NULL) {
            struct tcp_pcb *pcb = s->tcp;
            detach(s);
            tcp_abort(pcb);
        }
        if (s->kind == LISTENER && s->tcp != NULL)
            tcp_close(s->tcp);
        if (s->udp != NULL)
            udp_remove(s->udp);
        socket_free(s);
    }
    while (tcp_active_pcbs != NULL)
        tcp_abort(tcp_active_pcbs);
    while (tcp_tw_pcbs != NULL)
        tcp_abort(tcp_tw_pcbs);
    raw_remove(ping4);
    raw_remove(ping6);
    netif_remove(&station);
    struct block *block;
    while ((block = queue_take(&outgoing)) != NULL)
        free(block);
    free(events);
    events = NULL;
}

/* Moves time forward and does what is due. */
PEER_API void peer_time(uint64_t time_ns)
{
    if (time_ns > now_ns)
        now_ns = time_ns;
    sys_check_timeouts();
}

/* When something is due next. */
PEER_API uint64_t peer_next_ns(void)
{
    const u32_t sleep_ms = sys_timeouts_sleeptime();
    if (outgoing.head != NULL)
        return now_ns;
    if (sleep_ms == SYS_TIMEOUTS_SLEEPTIME_INFINITE)
        return UINT64_MAX;
    return (now_ns / 1000000u + sleep_ms) * 1000000u;
}

PEER_API int peer_input(const uint8_t *frame, uint32_t length)
{
    static const uint8_t broadcast[ETH_HWADDR_LEN] = {255, 255, 255, 255, 255, 255};
    if (length < SIZEOF_ETH_HDR || length > 0xffff)
        return -1;
    const int multicast = frame[0] & 1;
    if (!multicast && memcmp(frame, station.hwaddr, ETH_HWADDR_LEN) != 0 && memcmp(frame, broadcast, 6) != 0)
        return 0;
    struct pbuf *p = pbuf_alloc(PBUF_RAW, (u16_t)length, PBUF_RAM);
    if (p == NULL)
        return -1;
    pbuf_take(p, frame, (u16_t)length);
    frames_in++;
    if (station.input(p, &station) != ERR_OK)
        pbuf_free(p);
    return 1;
}

/* Takes the oldest frame to send; returns its length, or -1. */
PEER_API int peer_output(uint8_t *bytes, uint32_t capacity)
{
    if (outgoing.head == NULL || outgoing.head->length > capacity)
        return -1;
    struct block *block = queue_take(&outgoing);
    const int length = (int)block->length;
    memcpy(bytes, block->bytes, block->length);
    free(block);
    return length;
}

PEER_API int peer_event(struct peer_event *event)
{
    if (event_read == event_count) {
        event_read = event_count = 0;
        return 0;
    }
    *event = events[event_read++];
    return 1;
}

/* The functions below return a socket or a length, or a negative lwIP error. */

PEER_API int peer_listen(uint16_t port, uint8_t backlog)
{
    const int index = socket_new(LISTENER);
    if (index < 0)
        return ERR_MEM;
    struct tcp_pcb *pcb = need(tcp_new_ip_type(IPADDR_TYPE_ANY));
    ip_set_option(pcb, SOF_REUSEADDR);
    err_t err = tcp_bind(pcb, IP_ANY_TYPE, port);
    if (err == ERR_OK) {
        struct tcp_pcb *listener = tcp_listen_with_backlog_and_err(pcb, backlog, &err);
        if (listener != NULL) {
            sockets[index].tcp = listener;
            tcp_arg(listener, &sockets[index]);
            tcp_accept(listener, on_accept);
            return index;
        }
    }
    tcp_abort(pcb);
    socket_free(&sockets[index]);
    return err;
}

PEER_API int peer_connect(const char *address, uint16_t port, uint16_t local_port)
{
    ip_addr_t ip;
    if (!ipaddr_aton(address, &ip))
        return ERR_ARG;
    const int index = socket_new(STREAM);
    if (index < 0)
        return ERR_MEM;
    struct tcp_pcb *pcb = need(tcp_new_ip_type(IP_GET_TYPE(&ip)));
    adopt(&sockets[index], pcb);
    err_t err = local_port ? tcp_bind(pcb, IP_IS_V6(&ip) ? IP6_ADDR_ANY : IP4_ADDR_ANY, local_port) : ERR_OK;
    if (err == ERR_OK)
        err = tcp_connect(pcb, &ip, port, on_connected);
    if (err != ERR_OK) {
        detach(&sockets[index]);
        tcp_abort(pcb);
        socket_free(&sockets[index]);
        return err;
    }
    return index;
}

PEER_API int peer_send(int socket, const uint8_t *data, uint32_t length)
{
    struct socket *s = socket_get(socket, STREAM);
    if (s == NULL || s->tcp == NULL)
        return ERR_CONN;
    uint32_t part = length < tcp_sndbuf(s->tcp) ? length : tcp_sndbuf(s->tcp);
    if (part > 0xffff)
        part = 0xffff;
    while (part > 0) {
        const err_t err = tcp_write(s->tcp, data, (u16_t)part, TCP_WRITE_FLAG_COPY);
        if (err == ERR_OK)
            break;
        if (err != ERR_MEM)
            return err;
        part /= 2; /* the queue has few segments left */
    }
    tcp_output(s->tcp);
    return (int)part;
}

PEER_API int peer_recv(int socket, uint8_t *data, uint32_t capacity)
{
    struct socket *s = socket_get(socket, STREAM);
    if (s == NULL)
        return ERR_CONN;
    const size_t part = s->used < capacity ? s->used : capacity;
    if (part == 0)
        return 0;
    memcpy(data, s->data, part);
    s->used -= part;
    memmove(s->data, s->data + part, s->used);
    for (size_t left = part; s->tcp != NULL && left > 0;) {
        const u16_t step = left > 0x8000 ? 0x8000 : (u16_t)left;
        tcp_recved(s->tcp, step);
        left -= step;
    }
    return (int)part;
}

/* Bytes sent and not yet acknowledged, or still to send; -1 when the connection is gone. */
PEER_API int peer_unacknowledged(int socket)
{
    struct socket *s = socket_get(socket, STREAM);
    if (s == NULL || s->tcp == NULL)
        return -1;
    return (int)(TCP_SND_BUF - tcp_sndbuf(s->tcp));
}

PEER_API int peer_shutdown(int socket)
{
    struct socket *s = socket_get(socket, STREAM);
    if (s == NULL || s->tcp == NULL)
        return ERR_CONN;
    return tcp_shutdown(s->tcp, 0, 1);
}

/* Closes any socket and forgets it. A stream's queued data is still sent. */
PEER_API int peer_close(int socket)
{
    if (socket < 0 || socket >= MAX_SOCKETS || sockets[socket].kind == FREE)
        return ERR_ARG;
    struct socket *s = &sockets[socket];
    if (s->kind == LISTENER) {
        tcp_close(s->tcp);
    } else if (s->kind == STREAM && s->tcp != NULL) {
        struct tcp_pcb *pcb = s->tcp;
        detach(s);
        if (tcp_close(pcb) != ERR_OK)
            tcp_abort(pcb); /* out of memory for the FIN */
    } else if (s->udp != NULL) {
        udp_remove(s->udp);
    }
    socket_free(s);
    return 0;
}

/* Ends a connection with RST and forgets the socket. */
PEER_API int peer_abort(int socket)
{
    struct socket *s = socket_get(socket, STREAM);
    if (s == NULL)
        return ERR_ARG;
    struct tcp_pcb *pcb = s->tcp;
    detach(s);
    if (pcb != NULL)
        tcp_abort(pcb);
    socket_free(s);
    return 0;
}

/* Far end (which = 1) or own end (0) of a connection: the port, and the address into `text` of 48 bytes. */
PEER_API int peer_name(int socket, int which, char *text)
{
    struct socket *s = socket_get(socket, STREAM);
    if (s == NULL || s->tcp == NULL)
        return ERR_CONN;
    ipaddr_ntoa_r(which ? &s->tcp->remote_ip : &s->tcp->local_ip, text, ADDRESS_BYTES);
    return which ? s->tcp->remote_port : s->tcp->local_port;
}

PEER_API int peer_udp_open(uint16_t port)
{
    const int index = socket_new(DATAGRAM);
    if (index < 0)
        return ERR_MEM;
    struct udp_pcb *pcb = need(udp_new_ip_type(IPADDR_TYPE_ANY));
    const err_t err = udp_bind(pcb, IP_ANY_TYPE, port);
    if (err != ERR_OK) {
        udp_remove(pcb);
        socket_free(&sockets[index]);
        return err;
    }
    sockets[index].udp = pcb;
    udp_recv(pcb, on_datagram, &sockets[index]);
    return index;
}

PEER_API int peer_udp_send(int socket, const char *address, uint16_t port, const uint8_t *data,
                           uint32_t length)
{
    struct socket *s = socket_get(socket, DATAGRAM);
    ip_addr_t ip;
    if (s == NULL || length > 65507 || !ipaddr_aton(address, &ip))
        return ERR_ARG;
    struct pbuf *p = pbuf_alloc(PBUF_TRANSPORT, (u16_t)length, PBUF_RAM);
    if (p == NULL)
        return ERR_MEM;
    pbuf_take(p, data, (u16_t)length);
    const err_t err = udp_sendto(s->udp, p, &ip, port);
    pbuf_free(p);
    return err;
}

/* Takes the oldest datagram: its length, or -1 when there is none; `address` has 48 bytes. */
PEER_API int peer_udp_recv(int socket, uint8_t *data, uint32_t capacity, char *address, uint16_t *port)
{
    struct socket *s = socket_get(socket, DATAGRAM);
    if (s == NULL || s->datagrams.head == NULL || s->datagrams.head->length > capacity)
        return -1;
    struct block *block = queue_take(&s->datagrams);
    const int length = (int)block->length;
    memcpy(data, block->bytes, block->length);
    memcpy(address, block->address, ADDRESS_BYTES);
    *port = block->port;
    free(block);
    return length;
}

/* Sends an echo request; the answer is an event with the sequence number and its length (-1: wrong content). */
PEER_API int peer_ping(const char *address, uint16_t sequence, uint32_t length)
{
    ip_addr_t ip;
    struct icmp_echo_hdr echo = {0};
    if (length > PING_MAX_BYTES || !ipaddr_aton(address, &ip))
        return ERR_ARG;
    struct pbuf *p = pbuf_alloc(PBUF_IP, (u16_t)(sizeof echo + length), PBUF_RAM);
    if (p == NULL)
        return ERR_MEM;
    echo.type = IP_IS_V6(&ip) ? ICMP6_TYPE_EREQ : ICMP_ECHO;
    echo.id = lwip_htons(PING_ID);
    echo.seqno = lwip_htons(sequence);
    pbuf_take(p, &echo, sizeof echo);
    for (unsigned n = 0; n < length; n++)
        pbuf_put_at(p, (u16_t)(sizeof echo + n), ping_byte(sequence, n));
    if (!IP_IS_V6(&ip)) {
        echo.chksum = inet_chksum_pbuf(p);
        pbuf_take(p, &echo, sizeof echo);
    }
    const err_t err = raw_sendto(IP_IS_V6(&ip) ? ping6 : ping4, p, &ip);
    pbuf_free(p);
    return err;
}

PEER_API void peer_counters(struct counters *out)
{
    *out = (struct counters){
        .ip_checksum_errors = lwip_stats.ip.chkerr,
        .icmp_checksum_errors = lwip_stats.icmp.chkerr + lwip_stats.icmp6.chkerr,
        .udp_checksum_errors = lwip_stats.udp.chkerr,
        .tcp_checksum_errors = lwip_stats.tcp.chkerr,
        .tcp_retransmissions = lwip_stats.mib2.tcpretranssegs,
        .frames_in = frames_in,
        .frames_out = frames_out,
    };
}
