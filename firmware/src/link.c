/* The link of each port, watched by the manager core.
 *
 * A PHY is found and asked over MDIO (IEEE 802.3 clause 22), one management frame a tick and port, or tells its state
 * in band (RGMII). Without one the link counts as up at 1000 Mb/s. The other cores learn by message. */
#include "stack.h"
#include "lwip/priv/tcp_priv.h"
#include <string.h>

#define PHY_ADDRESSES 32u
#define RESCAN_MS     1000u /* a PHY may take long to leave its reset */
#define POLL_MS       50u
#define MDIO_TICKS    10u /* a management frame takes 26 us at 2.5 MHz */
#define MDIO_FAILURES 8u  /* in a row: look for the PHY again */

/* Registers of clause 22 (22.2.4, 40.5.1.1) and the bits used of them. */
enum { CONTROL = 0, STATUS = 1, ADVERTISED = 4, PARTNER = 5, GIGABIT_CONTROL = 9, GIGABIT_STATUS = 10 };
#define CONTROL_SPEED_LOW  0x2000u
#define CONTROL_SPEED_HIGH 0x0040u
#define CONTROL_NEGOTIATE  0x1000u
#define CONTROL_FULL       0x0100u
#define CONTROL_RESTART    0x0200u
#define STATUS_LINK        0x0004u
#define STATUS_NEGOTIATED  0x0020u
#define ABILITY_10         0x0020u
#define ABILITY_10_FULL    0x0040u
#define ABILITY_100        0x0080u
#define ABILITY_100_FULL   0x0100u
#define ABILITY_PAUSE      0x0400u
#define ABILITY_ASYMMETRIC 0x0800u
#define CONTROL_1000       0x0100u
#define CONTROL_1000_FULL  0x0200u
#define STATUS_1000        0x0400u
#define STATUS_1000_FULL   0x0800u

static const uint8_t sequence[LINK_REGISTERS] = {STATUS,  CONTROL,         ADVERTISED,
                                                 PARTNER, GIGABIT_CONTROL, GIGABIT_STATUS};
enum { AT_STATUS, AT_CONTROL, AT_ADVERTISED, AT_PARTNER, AT_GIGABIT_CONTROL, AT_GIGABIT_STATUS };

/* --- Link state --- */

/* On every core. Connections outlive a link that is down; what waits for an acknowledgement goes out again at once. */
static void set_netif(struct stack *stack, uint32_t port, bool up)
{
    struct netif *netif = &stack->netifs[port];
    u8_t announces = (u8_t)(netif->flags & NETIF_FLAG_ETHARP);
    if (netif_is_link_up(netif) == (u8_t)up) {
        return;
    }
    if (!up) {
        netif_set_link_down(netif);
        return;
    }
    if (stack_manager() != stack->core) {
        netif->flags = (u8_t)(netif->flags & ~NETIF_FLAG_ETHARP); /* the manager announces the address */
    }
    netif_set_link_up(netif);
    netif->flags |= announces;
    for (struct tcp_pcb *pcb = tcp_active_pcbs, *next; pcb != NULL; pcb = next) {
        next = pcb->next;
        if (ports_has_address(netif, &pcb->local_ip) && (pcb->unacked != NULL || pcb->unsent != NULL)) {
            pcb->nrtx = 0;
            pcb->rtime = 0;
            tcp_rexmit_rto(pcb);
            tcp_output(pcb);
        }
    }
}

static void set_link(struct stack *stack, uint32_t port, bool up, uint32_t speed, bool full)
{
    static const uint16_t megabits[] = {10, 100, 1000};
    struct link *link = &stack->links[port];
    if (link->up == up && (!up || (link->speed == speed && link->full == full))) {
        return;
    }
    link->up = up;
    if (up) {
        link->speed = (uint8_t)speed;
        link->full = full;
        uint32_t control = mmio_read(TS_MAC_CONTROL(port)) & ~TS_MAC_CONTROL_SPEED_MASK;
        mmio_write(TS_MAC_CONTROL(port), control | TS_PUT(TS_MAC_CONTROL_SPEED, speed));
        console_printf("port %u: link up, %u Mb/s%s\n", port, (uint32_t)megabits[speed],
                       full ? "" : ", half duplex: not supported");
    } else {
        console_printf("port %u: link down\n", port);
    }
    set_netif(stack, port, up);
    for (uint32_t core = 0; core < stack->cores; core++) {
        stack->link_dirty[core] |= core != stack->core ? (uint8_t)(1u << port) : 0u;
    }
}

/* IEEE 802.3 table 28B-3. */
static void set_pause(uint32_t port, uint32_t ours, uint32_t theirs)
{
    bool both = (ours & theirs & ABILITY_PAUSE) != 0u,
         asymmetric = (ours & theirs & ABILITY_ASYMMETRIC) != 0u;
    bool receive = both || (asymmetric && (ours & ABILITY_PAUSE) != 0u);
    bool send = both || (asymmetric && (theirs & ABILITY_PAUSE) != 0u && (ours & ABILITY_PAUSE) == 0u);
    uint32_t before = mmio_read(TS_MAC_CONTROL(port));
    uint32_t control = before & ~(TS_MAC_CONTROL_PAUSE_RECEIVE_MASK | TS_MAC_CONTROL_PAUSE_SEND_MASK);
    control |= TS_PUT(TS_MAC_CONTROL_PAUSE_RECEIVE, receive) | TS_PUT(TS_MAC_CONTROL_PAUSE_SEND, send);
    if (control != before) {
        mmio_write(TS_MAC_CONTROL(port), control);
    }
}

/* What the PHY's registers say, in the order of annex 28B.3. */
static void evaluate(struct stack *stack, uint32_t port)
{
    const uint16_t *values = stack->links[port].values;
    uint32_t both = values[AT_ADVERTISED] & values[AT_PARTNER], speed = 0u;
    uint32_t gigabit = values[AT_GIGABIT_CONTROL] & (uint32_t)values[AT_GIGABIT_STATUS] >> 2;
    bool full = true;
    if ((values[AT_STATUS] & STATUS_LINK) == 0u) {
        set_link(stack, port, false, 0u, true);
        return;
    }
    if ((values[AT_CONTROL] & CONTROL_NEGOTIATE) == 0u) {
        speed = (values[AT_CONTROL] & CONTROL_SPEED_HIGH) != 0u  ? 2u
                : (values[AT_CONTROL] & CONTROL_SPEED_LOW) != 0u ? 1u
                                                                 : 0u;
        full = (values[AT_CONTROL] & CONTROL_FULL) != 0u;
    } else if ((values[AT_STATUS] & STATUS_NEGOTIATED) == 0u) {
        return; /* not finished: nothing to go by yet */
    } else if ((gigabit & (CONTROL_1000 | CONTROL_1000_FULL)) != 0u) {
        speed = 2u;
        full = (gigabit & CONTROL_1000_FULL) != 0u;
    } else if ((both & (ABILITY_100 | ABILITY_100_FULL)) != 0u) {
        speed = 1u;
        full = (both & ABILITY_100_FULL) != 0u;
    } else {
        full = (both & ABILITY_10_FULL) != 0u;
    }
    if ((values[AT_CONTROL] & CONTROL_NEGOTIATE) != 0u) {
        set_pause(port, values[AT_ADVERTISED], values[AT_PARTNER]);
    }
    set_link(stack, port, true, speed, full);
}

/* Once for each PHY: the MAC knows full duplex only, and pause. Negotiation starts again if that is news to the PHY. */
static void advertise(struct link *link)
{
    uint16_t *values = link->values;
    uint32_t mine = (values[AT_ADVERTISED] & ~(ABILITY_10 | ABILITY_100)) | ABILITY_PAUSE;
    uint32_t gigabit = values[AT_GIGABIT_CONTROL] & ~CONTROL_1000;
    link->advertised = true;
    if ((values[AT_CONTROL] & CONTROL_NEGOTIATE) != 0u &&
        (values[AT_ADVERTISED] != mine || values[AT_GIGABIT_CONTROL] != gigabit)) {
        values[AT_ADVERTISED] = (uint16_t)mine;
        values[AT_GIGABIT_CONTROL] = (uint16_t)gigabit;
        values[AT_CONTROL] |= CONTROL_RESTART;
        link->writes = 3u;
    }
}

/* --- Management frames --- */

static void start_scan(struct link *link, uint32_t delay)
{
    link->found = false;
    link->phy = 0u;
    link->step = 0u;
    link->failures = 0u;
    link->advertised = false;
    link->writes = 0u;
    link->due = time_ms() + delay;
}

static void on_frame_done(struct stack *stack, uint32_t port, bool answered, uint16_t data)
{
    struct link *link = &stack->links[port];
    link->busy = false;
    if (!link->found) {
        /* No PHY has all bits of its status alike; an unconnected wire reads as ones. */
        if (answered && data != 0u && data != UINT16_MAX) {
            console_printf("port %u: PHY at address %u\n", port, (uint32_t)link->phy);
            link->found = true;
            link->due = time_ms();
        } else if (++link->phy == PHY_ADDRESSES) {
            start_scan(link, RESCAN_MS);
            set_link(stack, port, true, 2u, true); /* a link without a PHY that could tell */
        }
        return;
    }
    if (!answered) {
        link->step = 0u;
        if (++link->failures == MDIO_FAILURES) {
            start_scan(link, 0u);
        }
        return;
    }
    link->failures = 0u;
    if (link->writes != 0u) {
        link->writes--;
        return;
    }
    link->values[link->step++] = data;
    if (link->step == LINK_REGISTERS || (link->advertised && (link->values[AT_STATUS] & STATUS_LINK) == 0u)) {
        link->step = 0u;
        link->due = time_ms() + POLL_MS;
        if (!link->advertised) {
            advertise(link);
        }
        if (link->writes == 0u) {
            evaluate(stack, port);
        } else {
            link->due = time_ms();
        }
    }
}

static void start_frame(const struct link *link, uint32_t port)
{
    static const uint8_t written[] = {AT_CONTROL, AT_GIGABIT_CONTROL,
                                      AT_ADVERTISED}; /* the last goes first */
    uint32_t frame = TS_PUT(TS_MAC_MDIO_PHY, link->phy);
    if (link->writes != 0u) {
        uint32_t at = written[link->writes - 1u];
        frame |= TS_PUT(TS_MAC_MDIO_REGISTER, sequence[at]) | TS_PUT(TS_MAC_MDIO_DATA, link->values[at]);
    } else {
        frame |= TS_PUT(TS_MAC_MDIO_READ, 1u) |
                 TS_PUT(TS_MAC_MDIO_REGISTER, link->found ? sequence[link->step] : STATUS);
    }
    mmio_write(TS_MAC_MDIO(port), frame);
}

static void poll_port(struct stack *stack, uint32_t port)
{
    struct link *link = &stack->links[port];
    uint32_t status = mmio_read(TS_MAC_STATUS(port));
    if (TS_GET(status, TS_MAC_STATUS_IN_BAND) != 0u) {
        set_link(stack, port, TS_GET(status, TS_MAC_STATUS_LINK_UP) != 0u,
                 LWIP_MIN(TS_GET(status, TS_MAC_STATUS_SPEED), 2u),
                 TS_GET(status, TS_MAC_STATUS_FULL_DUPLEX) != 0u);
        return;
    }
    if (link->busy) {
        uint32_t result = mmio_read(TS_MAC_MDIO_RESULT(port));
        if (TS_GET(result, TS_MAC_MDIO_RESULT_BUSY) != 0u && ++link->waited < MDIO_TICKS) {
            return;
        }
        bool answered =
            TS_GET(result, TS_MAC_MDIO_RESULT_BUSY) == 0u && TS_GET(result, TS_MAC_MDIO_RESULT_ERROR) == 0u;
        on_frame_done(stack, port, answered, (uint16_t)TS_GET(result, TS_MAC_MDIO_RESULT_DATA));
    }
    if ((int32_t)(time_ms() - link->due) >= 0) {
        link->busy = true;
        link->waited = 0u;
        start_frame(link, port);
    }
}

/* --- To the other cores --- */

static void tell(struct stack *stack)
{
    for (uint32_t core = 0; core < stack->cores; core++) {
        for (uint32_t port = 0; port < stack->ports && stack->link_dirty[core] != 0u; port++) {
            uint32_t words[4] = {MESSAGE_LINK | port << 8 | (stack->links[port].up ? 1u : 0u) << 16, 0, 0, 0};
            if ((stack->link_dirty[core] >> port & 1u) != 0u &&
                message_send(&stack->message, core, words) == 0) {
                stack->link_dirty[core] &= (uint8_t) ~(1u << port);
            }
        }
    }
}

/* A core that has booted takes every link for up. */
void link_greeted(struct stack *stack, uint32_t core)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        stack->link_dirty[core] |= stack->links[port].up ? 0u : (uint8_t)(1u << port);
    }
}

void link_message(struct stack *stack, const uint32_t words[4])
{
    uint32_t port = words[0] >> 8 & 0xFFu;
    if (port < stack->ports) {
        stack->links[port].up = (words[0] >> 16 & 1u) != 0u; /* should this core become the manager */
        set_netif(stack, port, stack->links[port].up);
    }
}

void link_init(struct stack *stack)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        stack->links[port] = (struct link){.up = true, .full = true, .speed = 2u};
    }
    link_tick(stack);
}

void link_tick(struct stack *stack)
{
    bool manager = stack_manager() == stack->core;
    if (manager && !stack->manages) {
        rules_take_over(stack);
        for (uint32_t port = 0; port < stack->ports; port++) {
            stack->links[port].busy = false;
            start_scan(&stack->links[port], 0u);
        }
    }
    stack->manages = manager;
    if (manager) {
        for (uint32_t port = 0; port < stack->ports; port++) {
            poll_port(stack, port);
        }
        tell(stack);
    }
}
