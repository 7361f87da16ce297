/* The socket service: submission queue entries in, completions out, lwIP's raw API in between. */
#ifndef SERVICE_H
#define SERVICE_H

#include "stack.h"
#include "lwip/tcp.h"
#include "lwip/udp.h"

struct service;
struct socket;
struct datagram;

/* One operation of the host, from its delivery until its (last) completion is posted. */
struct op {
    struct op *next;
    union {
        struct socket *socket; /* NULL once the socket is gone or the result is known */
        struct datagram *datagram;
    };
    uint32_t user_low, user_high;
    union {
        struct {
            uint32_t buffer, length;
            union {
                struct {
                    uint32_t
                        submitted; /* bytes handed to the DMA engine; RECVFROM: host address for the sender's */
                    union {
                        uint32_t done;    /* bytes it has moved */
                        uint32_t scratch; /* TX bank piece with a small result */
                    };
                    int32_t result;
                };
                uint32_t target[4]; /* SENDTO, until the result is known: destination */
            };
        };
        uint32_t next_hop[4]; /* TCP_CONNECT: IPv6 address, or an IPv4 address and zeros */
    };
    uint16_t target_port;
    uint8_t target_zone;
    bool target_is_v6;
    uint8_t operation, host, join_id;
    bool joined, finished;
    uint8_t transfers; /* in the DMA engine now; no completion before they end */
};

struct op_list {
    struct op *head, *tail;
};

enum piece_state { PIECE_FREE, PIECE_COPYING, PIECE_READY, PIECE_WRITTEN, PIECE_FAILED };

/* One TX buffer with data of a SEND; its index is that of the buffer. */
struct piece {
    struct piece *next;
    union {
        struct socket *socket;
        struct datagram *datagram;
    };
    struct op *op;
    uint16_t length, acknowledged;
    uint8_t state;
    uint8_t since;             /* a datagram that lwIP had no memory for: ms, low bits */
    struct pbuf_custom custom; /* of a datagram; the piece is free when lwIP frees it */
};

enum socket_state { SOCKET_FREE, SOCKET_CONNECTING, SOCKET_BACKLOG, SOCKET_OPEN, SOCKET_LINGER };

/* What SETSOCKOPT sets; listeners keep it for their connections, connections have part of it in their PCB. */
struct tcp_options {
    uint32_t user_timeout;                        /* ms, 0: none */
    uint16_t keep_idle, keep_interval, linger;    /* seconds; linger: plus one, 0: none */
    uint8_t keep_count, ttl, tos, rcvbuf, sndbuf; /* buffers in segments */
    uint8_t nodelay, keepalive;
};

struct listener {
    struct service *service;
    struct tcp_pcb *pcb;
    struct op *accept;
    struct socket *backlog; /* connections that no ACCEPT has taken, oldest first */
    ip_addr_t address;      /* its type tells which families */
    uint16_t port, generation;
    uint8_t host, length;
    bool used;
    struct tcp_options options;
};

struct socket {
    struct tcp_pcb *pcb; /* NULL after reset, time-out or the end of both directions */
    struct service *service;
    struct listener *listener; /* while in its backlog */
    struct socket *next;       /* in the backlog */
    struct op_list sends, receives;
    struct op *connect, *shutdown;     /* shutdown: SHUTDOWN, or a CLOSE that lingers */
    struct piece *pieces, *last_piece; /* in stream order, unacknowledged or not yet written */
    struct pbuf *rx_head, *rx_tail;    /* received, not yet claimed by a RECV */
    uint32_t rx_bytes;
    uint16_t generation, port; /* port: in the directory, or 0 */
    uint8_t state, host, error, rx_held, piece_count;
    uint8_t ack_since; /* ms, low bits */
    bool eof : 1, fin_wanted : 1, fin_sent : 1, attention : 1;
    bool broken : 1;        /* a SEND failed: what follows it would come in the wrong place */
    bool wide : 1;          /* the peer has seen a window of two segments */
    bool thirsty : 1;       /* a RECV is posted and there is no window for it */
    bool ack_due : 1;       /* two segments wait for an acknowledgement; it goes with the next window */
    uint16_t thirsty_since; /* ms, low bits */
    uint16_t linger;        /* this and the next three: see struct tcp_options */
    uint8_t rcvbuf, sndbuf;
    uint32_t user_timeout;
    uint32_t progress; /* when nothing waited for an acknowledgement, or one came, ms */
};

/* A datagram that waits for a receive. */
struct kept {
    struct kept *next;
    struct pbuf *p;
    ip_addr_t source;
    uint16_t port;
};

struct datagram {
    struct udp_pcb *pcb; /* NULL: closed */
    struct service *service;
    struct op_list sends, receives; /* without a TX buffer; without a datagram */
    struct kept *first, *last;
    uint16_t generation;
    uint8_t host, error, kept, quota;
    uint8_t tx_count, tx_quota;      /* TX buffers */
    uint8_t joined[TS_CONFIG_PORTS]; /* bit n: group n of the port */
    bool spread : 1, broadcast : 1, attention : 1, used : 1;
};

struct group {
    ip_addr_t address;
    uint8_t members; /* sockets of this core; 0: free */
};

struct udp {
    struct datagram sockets[UDP_SOCKETS + UDP_SPREAD]; /* spread ones last */
    struct kept entries[UDP_KEPT], *free_entries;
    struct piece *pieces, *last_piece; /* datagrams in TX buffers that lwIP has not got, oldest first */
    struct group groups[TS_CONFIG_PORTS][UDP_GROUPS];
    uint32_t open;                   /* sockets */
    uint32_t tx_buffers;             /* in use */
    uint32_t kept_large, kept_small; /* buffers of kept datagrams; those of handed-over ones count as large */
    uint32_t kept_handed;
    struct kept *excess; /* one that may stay for a moment only, or NULL */
    struct datagram *excess_socket;
    uint32_t excess_since; /* ms */
    uint32_t dropped, errors;
};

#define NETCONF_WORDS 12u /* a configuration in messages */

struct ping {
    struct op *op;
    uint32_t word, since, cycles; /* identifier and sequence number; ms */
    uint16_t length, timeout;
};

struct resolve {
    struct op *op; /* NULL: cancelled */
    bool used;     /* by lwIP */
};

struct service {
    struct stack *stack;
    struct op ops[OPERATIONS];
    struct op_list free_ops, completed; /* completed: waiting for space in the completion FIFO */
    struct socket sockets[SOCKETS];
    struct listener listeners[LISTENERS];
    struct piece pieces[TX_BUFFERS];
    struct ping pings[PINGS];
    struct resolve resolves[RESOLVES];
    uint32_t open, closing; /* sockets; of them: with a FIN on its way */
    uint32_t turn;          /* first socket of the next pump, for fairness */
    uint32_t window_turn;   /* first socket of the next hand-out of windows */
    uint32_t acknowledged;  /* when delayed acknowledgements were sent last, ms */
    bool acks_due;          /* a socket has ack_due */
    bool windows_due;       /* buffers or RECVs have come: windows may be handed out */
    uint32_t windows_at;    /* when that was done last, ms */
    uint32_t high;          /* sockets from here on have never been used */
    uint32_t senders;       /* sockets with something to send, as the last pump saw it */
    uint32_t in_flight;     /* pieces in TCP */
    uint32_t timed;         /* when time-outs were looked at, ms */
    uint32_t excess;        /* segments granted in excess of the RX buffers */
    struct udp udp;
    uint32_t connections;
    uint64_t bytes_in, bytes_out;
    struct {
        uint32_t used;    /* entries of this core's connections */
        uint32_t full;    /* connections that found no entry and go by hash */
        uint32_t clashes; /* tuples that are another core's */
        uint32_t errors;
    } flow;
    struct {
        struct port_config config[TS_CONFIG_PORTS];
        bool configured[TS_CONFIG_PORTS];
        uint8_t number[TS_CONFIG_PORTS]; /* of the configuration: another one with each change */
        bool busy;                       /* somebody has not acknowledged, or an operation waits */
        uint8_t dirty[8]; /* for each core: ports whose configuration it has not acknowledged */
        uint8_t sent[8];
        uint32_t sent_at[8];
        uint32_t greeted;       /* cores that said HELLO, perhaps not alive yet */
        struct op_list waiting; /* NETIF_CONFIG, the first is in progress */
        uint32_t started;
        uint32_t incoming[NETCONF_WORDS]; /* parts of a configuration that have come, in order */
        uint32_t incoming_header;         /* which configuration, whose */
        uint8_t incoming_parts;
    } netconf;
};

/* service.c */
int service_init(struct service *service, struct stack *stack);
struct program service_program(struct service *service);
void op_finish(struct service *service, struct op *op, int32_t result);
void op_transferred(struct service *service, struct op *op);
void op_push(struct op_list *list, struct op *op);
void op_remove(struct op_list *list, struct op *op);
void op_finish_all(struct service *service, struct op_list *list, int32_t result);
/* Write `bytes` of words to the op's host buffer and finish it with that number. */
void op_write_result(struct service *service, struct op *op, const uint32_t *words, uint32_t bytes);
uint32_t handle_pack(uint32_t core, uint32_t host, uint32_t index, uint32_t generation);
/* A socket address of an entry; port and `extra` are the caller's to check. -E_AFNOSUPPORT, -E_INVAL. */
int address_parse(const uint32_t *words, ip_addr_t *address, uint16_t *port);
void address_write(uint32_t words[TS_SOCKET_ADDRESS_WORDS], const ip_addr_t *address, uint16_t port);

/* socket.c */
struct socket *socket_open(struct service *service, uint8_t host, uint8_t state); /* NULL: none free */
void socket_set_load(const struct service *service);
void socket_attach(struct socket *socket, struct tcp_pcb *pcb);
void socket_release(struct socket *socket, int32_t result); /* pending operations end with result */
void socket_close(struct socket *socket, struct op *op);
void socket_abort(struct socket *socket);
void socket_check_fin(struct socket *socket);
uint32_t socket_handle(const struct socket *socket);
struct socket *socket_of_handle(struct service *service, uint32_t handle, uint8_t host);
bool socket_refuses(void *service, const volatile uint32_t *descriptor, const uint8_t *header);

/* transfer.c */
void transfer_init(struct service *service);
void transfer_pump_send(struct socket *socket);
void transfer_pump_receive(struct socket *socket);
void transfer_acknowledged(struct socket *socket, u16_t length);
void transfer_drop_pieces(struct socket *socket);
void transfer_drop_received(struct socket *socket);

/* flow.c */
void flow_init(struct service *service);
void flow_listen(struct tcp_pcb *pcb);
void flow_track(struct tcp_pcb *pcb); /* lwIP will tell when the PCB goes */
static inline bool flow_has(const struct tcp_pcb *pcb)
{
    return pcb->ext_args[0].data != NULL;
}
bool flow_accept(struct tcp_pcb *pcb);
int flow_open(struct tcp_pcb *pcb, const ip_addr_t *remote, const ip_addr_t *local, uint16_t remote_port,
              uint16_t local_port);
void flow_leave(struct tcp_pcb *pcb);

/* window.c */
void window_start(struct tcp_pcb *pcb);
void window_received(struct socket *socket, bool several);
void window_pump(struct service *service);

/* listener.c */
void listener_open(struct service *service, struct op *op, const uint32_t *sqe);
void listener_handle_op(struct service *service, struct op *op, uint32_t handle, const uint32_t *sqe);
void listener_pump(struct service *service);
void listener_forget(struct socket *socket);

/* connect.c */
void connect_start(struct service *service, struct op *op, const uint32_t *sqe);
void connect_done(struct socket *socket, int32_t result);
void connect_unreachable(void *service, const ip_addr_t *peer, const uint8_t *quoted, int error);
int connect_error(struct socket *socket, err_t error);

/* options.c */
void options_default(struct tcp_options *options);
void options_to_pcb(const struct tcp_options *options, struct tcp_pcb *pcb);
void options_to_socket(const struct tcp_options *options, struct socket *socket);
void options_of_socket(struct service *service, struct op *op, struct socket *socket, const uint32_t *sqe);
void options_of_listener(struct service *service, struct op *op, struct listener *listener,
                         const uint32_t *sqe);
void options_pump(struct service *service); /* time-outs of sockets */

/* cancel.c */
void cancel(struct service *service, struct op *op, const uint32_t *sqe);

/* dispatch_config.c */
void dispatch_config(struct service *service, struct op *op, uint32_t flags);

/* udp.c */
void udp_service_init(struct service *service);
void udp_open(struct service *service, struct op *op, const uint32_t *sqe);
struct datagram *udp_of_handle(struct service *service, uint32_t handle, uint8_t host);
void udp_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe);
void udp_unreachable(void *service, const ip_addr_t *peer, uint16_t peer_port, uint16_t local_port);
bool udp_message(struct service *service, const uint32_t words[4]);
uint32_t udp_handle(const struct datagram *socket);
bool udp_cancel(struct service *service, uint32_t user_low, uint32_t user_high, uint8_t host);

/* udp_option.c */
int32_t udp_set_option(struct service *service, struct datagram *socket, uint32_t option,
                       const uint32_t *inline_words);
int32_t udp_get_option(struct service *service, struct datagram *socket, uint32_t option);
void udp_leave_all(struct service *service, struct datagram *socket);

/* udp_transfer.c */
void udp_transfer_init(struct service *service);
int udp_parse(const uint32_t *words, ip_addr_t *address, uint16_t *port);
int udp_check_family(const struct datagram *socket, const ip_addr_t *address);
void udp_send_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe);
void udp_receive_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe);
void udp_received(void *context, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *source, u16_t port);
void udp_drop(struct datagram *socket); /* what it keeps, receives and sends */
void udp_pump(struct service *service);
uint32_t udp_held(void); /* large RX buffers of datagrams that wait */

/* ping.c */
void ping_start(struct service *service, struct op *op, const uint32_t *sqe);
void ping_echo(void *service, uint32_t word, int32_t length);
bool ping_message(struct service *service, const uint32_t words[4]);
void ping_pump(struct service *service);

/* resolve.c */
void resolve_start(struct service *service, struct op *op, const uint32_t *sqe);

/* netconf.c */
int netconf_init(struct service *service);
void netconf_apply(struct service *service, struct op *op, const uint32_t *sqe);
void netconf_status(struct service *service, struct op *op, uint32_t port);
int netconf_message(void *service, uint32_t sender, const uint32_t words[4]);
void netconf_pump(struct service *service);

#endif
