/* One core's stack: drivers, lwIP and the executive that runs them. Both programs are built on it. */
#ifndef STACK_H
#define STACK_H

#include "drivers.h"
#include "lwip/netif.h"

#define FIRMWARE_VERSION_MAJOR 0u
#define FIRMWARE_VERSION_MINOR 1u
#define FIRMWARE_VERSION_PATCH 0u

/* Messages between the cores that the program on top does not see; see link.c and handover.c. */
enum { MESSAGE_LINK = 16, MESSAGE_PART = 17, MESSAGE_TAKEN = 18 };

#define LINK_REGISTERS 6u
struct link {
    bool up, full;
    uint8_t speed;    /* as mac.control.speed */
    bool found, busy; /* a PHY; a management frame is on its way */
    bool advertised;  /* the PHY advertises what the MAC can do */
    uint8_t writes;   /* management frames to send for that */
    uint8_t phy, step, waited, failures;
    uint16_t values[LINK_REGISTERS];
    uint32_t due;
};

#define HANDED_BUFFERS 5u /* TX buffers that packets from other cores may hold */
struct handed {
    struct pbuf_custom custom; /* first, so that a pbuf leads to it */
    uint8_t buffer;
    bool used;
};

struct handover {
    struct pbuf *p;        /* on its way to core `to`, or NULL */
    struct pbuf *incoming; /* a chain of handed buffers */
    struct handed handed[HANDED_BUFFERS];
    uint32_t since, in_since;
    uint16_t offset, length, number;
    uint16_t in_offset, in_total, in_number;
    uint8_t to, port, in_from;
    uint32_t given, taken, dropped;
};

struct stack {
    uint8_t core, cores, ports, epoch;
    bool manages; /* this core was the manager at the last tick */
    uint32_t isn_secret[4];
    uint32_t foreign;      /* reassembled segments of connections that live on another core */
    uint32_t bad_checksum; /* found by software where hardware could not check */
    struct lock lock;
    struct message message;
    struct bank bank;
    struct dma dma_in, dma_out;
    struct tx tx;
    struct sq sq;
    struct rx rx;
    struct netif netifs[TS_CONFIG_PORTS];
    ip6_addr_t routers6[TS_CONFIG_PORTS]; /* configured ones, or any */
    struct {
        uint32_t ip4[DNS_IPV4_SERVERS]; /* wire bytes, or zero */
        ip6_addr_t ip6;
    } dns[TS_CONFIG_PORTS];
    uint8_t dns_first;          /* port whose DNS servers are asked first */
    bool dhcp[TS_CONFIG_PORTS]; /* wanted; the manager's client runs */
    void (*lease_changed)(void *context, uint32_t port);
    void *lease_context;
    struct link links[TS_CONFIG_PORTS];
    uint8_t link_dirty[8]; /* for each core: ports whose link state it has not been told */
    struct handover handover;
    void (*unreachable)(void *context, const ip_addr_t *peer, uint16_t peer_port, uint16_t local_port);
    /* A connection of ours met an ICMP error; an echo request of ours its answer or (negative) an ICMP error. */
    void (*tcp_unreachable)(void *context, const ip_addr_t *peer, const uint8_t *quoted, int error);
    void (*echo)(void *context, uint32_t word, int32_t length);
    void *unreachable_context;
    bool in_timers;
#ifndef TWINSTACK_SMALL
    struct {
        uint8_t counts[TS_CONFIG_PORTS][64]; /* groups of this core that want a bit of the filter */
        uint8_t dirty;                       /* ports whose filter is not what it should be */
    } multicast;
#endif
};

/* The program on top. Each function returns how much it did, so that the executive knows when to idle. */
struct program {
    void *context;
    int (*deliver)(void *context); /* submission queue entries */
    int (*message)(void *context, uint32_t sender, const uint32_t words[4]);
    int (*pump)(void *context); /* after anything happened */
};

/* boot.c */
int boot_check(void);  /* magic and ABI; on a mismatch both versions are on the console */
void boot_ready(void); /* the stack is up: take part in dispatch */
void boot_failed(void);

/* executive.c */
int stack_init(struct stack *stack);
uint32_t stack_manager(void); /* number of the manager core now */
int executive_step(struct stack *stack, const struct program *program);
void executive_run(struct stack *stack, const struct program *program) __attribute__((noreturn));
void executive_tick(void); /* from the interrupt handler */

/* netif.c */
struct port_config {
    uint32_t address, gateway; /* wire bytes */
    uint32_t dns[DNS_IPV4_SERVERS];
    uint32_t address6[4]; /* static, or zero */
    uint32_t router6[2];  /* interface identifier of a static router, or zero */
    uint8_t prefix_length;
    uint8_t mac[6];
    bool dhcp, autoconfigure;
};
int ports_init(struct stack *stack);
int ports_input(struct stack *stack, uint32_t port, struct pbuf *p);
void ports_configure(struct stack *stack, uint32_t port, const struct port_config *config);
uint32_t prefix_mask(uint32_t length); /* wire bytes */
struct ip_hdr;
bool ports_checksum_ok(struct pbuf *p,
                       const struct ip_hdr *header); /* of TCP or UDP; `p` starts at the header */

/* rules.c: dispatch rules and indirection table; a rule has the values of the dispatcher's three registers */
struct rule {
    uint32_t kind, ports, match; /* match: without an index */
};
void rules_init(const struct stack *stack);
void rules_take_over(const struct stack *stack);
void rules_set(const struct stack *stack, uint32_t index, const struct rule *rule);
void rules_get(uint32_t index, struct rule *rule);
void rules_set_entry(uint32_t index, uint32_t core);
uint32_t rules_entry(uint32_t index); /* core */
/* ip6.c */
void ip6_init(struct stack *stack);
bool ip6_checksum_ok(struct pbuf *p); /* of TCP or UDP; `p` starts at the IPv6 header */

/* lease.c */
void lease_init(struct stack *stack);
bool lease_runs(struct stack *stack, uint32_t port);
bool lease_bound(struct stack *stack, uint32_t port);
uint32_t lease_seconds(struct stack *stack, uint32_t port); /* left; all ones: for ever */
void lease_update(struct stack *stack, uint32_t port);
void lease_stop(struct stack *stack, uint32_t port, bool release);
void lease_tick(struct stack *stack);
void dns_rebuild(struct stack *stack);

/* route.c */
void route_init(struct stack *stack);
bool ports_has_address(const struct netif *netif, const ip_addr_t *address);
/* The port for packets to `remote`, which gets a zone if it needs one, with our address and the next hop; NULL: no route,
 * or no address. */
struct netif *ports_route(ip_addr_t *remote, ip_addr_t *local, ip_addr_t *next_hop);
const ip6_addr_t *ports_router6(const struct netif *netif); /* default router, or NULL */
bool ports_neighbour_known(struct stack *stack,
                           const uint32_t next_hop[4]); /* an IPv4 address and zeros, or IPv6 */

/* link.c */
void link_init(struct stack *stack);
void link_tick(struct stack *stack);
void link_greeted(struct stack *stack, uint32_t core);
void link_message(struct stack *stack, const uint32_t words[4]);

/* handover.c */
void handover_init(struct stack *stack);
void handover_give(struct stack *stack, uint32_t to, uint32_t port, struct pbuf *p);
void handover_message(struct stack *stack, uint32_t sender, const uint32_t words[4]);
void handover_tick(struct stack *stack);

#define ICMP_BYTES 8u /* before the quotation, or the payload of an echo */
/* icmp_error.c: a UDP port of a peer is closed; tells `unreachable` */
void icmp_error_input6(struct stack *stack, const struct pbuf *p, const struct netif *input);
void icmp_error_input4(struct stack *stack, const struct pbuf *p, uint32_t header_bytes, uint32_t total);

/* multicast.c: let a group address into the MAC of a port, or no longer (as often as it was let in) */
void multicast_init(struct stack *stack);
void multicast_tick(struct stack *stack);
int multicast_filter(struct stack *stack, uint32_t port, const uint8_t mac[6], bool join);

/* directory.c: local ports of outgoing connections and of UDP sockets, shared by the cores */
enum directory_kind { DIRECTORY_TCP = 1, DIRECTORY_UDP = 2, DIRECTORY_SPREAD = 3 /* UDP on several cores */ };
int directory_init(struct stack *stack); /* scrubs what this core's earlier epochs left */
int directory_take(struct stack *stack, enum directory_kind kind, uint16_t port);
bool directory_has_udp(uint16_t port);
void directory_release(struct stack *stack, enum directory_kind kind, uint16_t port);

#endif
