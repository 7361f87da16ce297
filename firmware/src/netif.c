/* lwIP on the network ports: one netif for each, the same addresses on every core. */
#include "stack.h"
#include "lwip/ethip6.h"
#include "lwip/etharp.h"
#include "lwip/inet_chksum.h"
#include "lwip/nd6.h"
#include "lwip/ip4_frag.h"
#include "lwip/prot/ip.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/tcp.h"
#include "lwip/prot/udp.h"
#include "netif/ethernet.h"
#include "lwip_hooks.h"
#include <string.h>

#define MTU               1500u
#define ISN_STEPS_PER_MS  250u /* RFC 9293 3.4.1: the clock part grows every 4 microseconds */
#define NETIF_OF(s, port) (&(s)->netifs[port])

static struct stack *instance; /* lwIP's hooks have no context */

static err_t link_output(struct netif *netif, struct pbuf *p)
{
    struct stack *stack = netif->state;
    if (p->tot_len > TS_FRAME_PAD_BYTES + SIZEOF_ETH_HDR - ETH_PAD_SIZE + MTU) {
        return ERR_VAL; /* lwIP cannot fragment here: the answer to a ping of several fragments */
    }
    int error = tx_send(&stack->tx, (uint32_t)(netif - stack->netifs), p);
    return error == 0 ? ERR_OK : error == -E_AGAIN ? ERR_MEM : ERR_VAL;
}

#ifndef TWINSTACK_SMALL
static err_t filter_group(struct netif *netif, const ip4_addr_t *group, enum netif_mac_filter_action action)
{
    struct stack *stack = netif->state;
    uint8_t mac[ETH_HWADDR_LEN] = {LL_IP4_MULTICAST_ADDR_0, LL_IP4_MULTICAST_ADDR_1,
                                   LL_IP4_MULTICAST_ADDR_2, ip4_addr2(group) & 0x7Fu,
                                   ip4_addr3(group),        ip4_addr4(group)}; /* RFC 1112 6.4 */
    multicast_filter(stack, (uint32_t)(netif - stack->netifs), mac, action == NETIF_ADD_MAC_FILTER);
    return ERR_OK;
}

/* RFC 2464 7 */
static err_t filter_group6(struct netif *netif, const ip6_addr_t *group, enum netif_mac_filter_action action)
{
    struct stack *stack = netif->state;
    uint8_t mac[6] = {0x33, 0x33};
    memcpy(mac + 2, &group->addr[3], 4u);
    multicast_filter(stack, (uint32_t)(netif - stack->netifs), mac, action == NETIF_ADD_MAC_FILTER);
    return ERR_OK;
}

#endif

static err_t on_netif_add(struct netif *netif)
{
    struct stack *stack = netif->state;
    netif->name[0] = 'e';
    netif->name[1] = (char)('0' + (netif - stack->netifs));
    netif->output = etharp_output;
    netif->output_ip6 = ethip6_output;
    netif->linkoutput = link_output;
    netif->mtu = MTU;
    netif->hwaddr_len = ETH_HWADDR_LEN;
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHERNET | NETIF_FLAG_IGMP | NETIF_FLAG_MLD6;
#ifndef TWINSTACK_SMALL
    netif_set_igmp_mac_filter(netif, filter_group);
    netif_set_mld_mac_filter(netif, filter_group6);
#endif
    return ERR_OK;
}

static int on_frame(void *context, uint32_t port, struct pbuf *p)
{
    return ports_input(context, port, p);
}

int ports_init(struct stack *stack)
{
    instance = stack;
    ip6_init(stack);
    route_init(stack);
    stack->rx.input = on_frame;
    stack->rx.context = stack;
    for (uint32_t port = 0; port < stack->ports; port++) {
        if (netif_add(NETIF_OF(stack, port), NULL, NULL, NULL, stack, on_netif_add, ethernet_input) == NULL) {
            return -E_NOMEM;
        }
        netif_set_link_up(NETIF_OF(stack, port));
    }
    lease_init(stack);
    netif_set_default(NETIF_OF(stack, 0));
    return 0;
}

int ports_input(struct stack *stack, uint32_t port, struct pbuf *p)
{
    struct netif *netif = NETIF_OF(stack, port);
    if (!netif_is_up(netif)) {
        return -E_INVAL;
    }
    return netif->input(p, netif) == ERR_OK ? 0 : -E_INVAL;
}

uint32_t prefix_mask(uint32_t length)
{
    return lwip_htonl(length == 0u ? 0u : 0xFFFFFFFFu << (32u - length));
}

static void configure4(struct stack *stack, struct netif *netif, const struct port_config *config)
{
    ip4_addr_t address = {config->address}, mask = {prefix_mask(config->prefix_length)},
               gateway = {config->gateway};
    /* A netif announces its address by gratuitous ARP if it has NETIF_FLAG_ETHARP: only the manager's may. */
    netif->flags = (u8_t)(netif->flags & ~NETIF_FLAG_ETHARP);
    netif_set_addr(netif, &address, &mask, &gateway);
    netif->flags |= NETIF_FLAG_ETHARP;
    if (stack_manager() == stack->core && config->address != 0u) {
        etharp_gratuitous(netif);
    }
    if (config->gateway != 0u) {
        netif_set_default(netif);
    }
}

#ifndef TWINSTACK_SMALL
/* Static addresses have slot 1, those of router advertisements what is free. Every core does duplicate detection for
 * itself: the second solicitation does no harm. */
static void configure6(struct stack *stack, struct netif *netif, const struct port_config *config,
                       bool new_mac)
{
    const uint32_t *words = config->address6, *router = config->router6;
    ip_addr_t address = IPADDR6_INIT(words[0], words[1], words[2], words[3]);
    if (new_mac || ip6_addr_isinvalid(netif_ip6_addr_state(netif, 0))) {
        netif_create_ip6_linklocal_address(netif, 1);
    }
    for (s8_t i = 1; i < LWIP_IPV6_NUM_ADDRESSES; i++) {
        bool fixed = !ip6_addr_isinvalid(netif_ip6_addr_state(netif, i)) && netif_ip6_addr_isstatic(netif, i);
        if (fixed ? !ip6_addr_zoneless_eq(netif_ip6_addr(netif, i), ip_2_ip6(&address))
                  : !config->autoconfigure || new_mac) {
            netif_ip6_addr_set_state(netif, i, IP6_ADDR_INVALID);
        }
    }
    if (!ip_addr_isany(&address) && netif_get_ip6_addr_match(netif, ip_2_ip6(&address)) < 0) {
        netif_ip6_addr_set_state(netif, 1, IP6_ADDR_INVALID);
        ip6_addr_assign_zone(ip_2_ip6(&address), IP6_UNICAST, netif);
        netif_ip6_addr_set(netif, 1, ip_2_ip6(&address));
        netif_ip6_addr_set_valid_life(netif, 1, IP6_ADDR_LIFE_STATIC);
        netif_ip6_addr_set_pref_life(netif, 1, IP6_ADDR_LIFE_STATIC);
        netif_ip6_addr_set_state(netif, 1, IP6_ADDR_TENTATIVE);
    }
    ip6_addr_t *router6 = &stack->routers6[netif - stack->netifs];
    ip6_addr_set_zero(router6);
    if ((router[0] | router[1]) != 0u) {
        IP6_ADDR(router6, PP_HTONL(0xFE800000u), 0u, router[0], router[1]);
        ip6_addr_assign_zone(router6, IP6_UNICAST, netif);
    }
    nd6_clear_destination_cache();
    if (config->autoconfigure != netif->ip6_autoconfig_enabled) {
        netif_set_ip6_autoconfig_enabled(netif, config->autoconfigure);
    }
    if (config->autoconfigure) {
        nd6_restart_netif(netif); /* ask for advertisements */
    } else {
        netif->rs_count = 0;
    }
}
#endif

void ports_configure(struct stack *stack, uint32_t port, const struct port_config *config)
{
    struct netif *netif = NETIF_OF(stack, port);
    bool new_mac = memcmp(netif->hwaddr, config->mac, sizeof(config->mac)) != 0;
    stack->dhcp[port] = config->dhcp;
    if (!config->dhcp || new_mac) {
        lease_stop(stack, port, true);
    }
    memcpy(netif->hwaddr, config->mac, sizeof(config->mac));
    if (stack_manager() == stack->core) {
        const uint8_t *mac = config->mac;
        mmio_write(TS_MAC_ADDRESS_LOW(port), (uint32_t)mac[0] | (uint32_t)mac[1] << 8 |
                                                 (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24);
        mmio_write(TS_MAC_ADDRESS_HIGH(port), (uint32_t)mac[4] | (uint32_t)mac[5] << 8);
        mmio_write(TS_MAC_CONTROL(port), mmio_read(TS_MAC_CONTROL(port)) | TS_PUT(TS_MAC_CONTROL_ENABLE, 1u));
    }
    netif->flags = (u8_t)(netif->flags & ~NETIF_FLAG_ETHARP);
    if (!netif_is_up(netif)) {
        static const uint8_t all_nodes[6] = {0x33, 0x33, 0, 0, 0, 1}; /* nobody joins it */
        multicast_filter(stack, port, all_nodes, true);
        netif_set_up(netif);
    }
    netif->flags |= NETIF_FLAG_ETHARP;
    if (!lease_runs(stack, port)) {
        memcpy(stack->dns[port].ip4, config->dns, sizeof(config->dns));
        stack->dns_first = (uint8_t)port;
        dns_rebuild(stack);
        configure4(stack, netif, config);
        lease_update(stack, port);
    }
#ifndef TWINSTACK_SMALL
    configure6(stack, netif, config, new_mac);
#endif
}

#ifndef TWINSTACK_SMALL
static struct netif *netif_of_address(const struct stack *stack, uint32_t address)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        struct netif *netif = (struct netif *)(uintptr_t)NETIF_OF(stack, port);
        if (netif_is_up(netif) && netif_ip4_addr(netif)->addr == address) {
            return netif;
        }
    }
    return NULL;
}
#endif

/* Checksum of a TCP or UDP datagram that hardware could not check; `p` starts at a sane IPv4 header. */
bool ports_checksum_ok(struct pbuf *p, const struct ip_hdr *header)
{
    u16_t header_bytes = IPH_HL_BYTES(header);
    u16_t length = (u16_t)(lwip_ntohs(IPH_LEN(header)) - header_bytes);
    ip4_addr_t source = {header->src.addr}, destination = {header->dest.addr};
    u8_t protocol = IPH_PROTO(header);
    if (protocol != IP_PROTO_TCP && protocol != IP_PROTO_UDP) {
        return true;
    }
    if (pbuf_remove_header(p, header_bytes) != 0) {
        return false;
    }
    bool none =
        protocol == IP_PROTO_UDP && p->len >= UDP_HLEN && ((const struct udp_hdr *)p->payload)->chksum == 0u;
    bool ok = none || inet_chksum_pseudo(p, protocol, length, &source, &destination) == 0u;
    pbuf_add_header_force(p, header_bytes);
    return ok;
}

#ifndef TWINSTACK_SMALL
/* Which core a reassembled packet is for: fragments meet by address, connections by the whole tuple, datagrams by the
 * port. A number that no core has if nobody knows. */
static uint32_t core_of(struct stack *stack, const struct pbuf *p, const struct ip_hdr *header)
{
    u16_t header_bytes = IPH_HL_BYTES(header);
    uint32_t core;
    bool tcp = IPH_PROTO(header) == IP_PROTO_TCP;
    if (!tcp && IPH_PROTO(header) != IP_PROTO_UDP) {
        return stack->core;
    }
    if (p->len < header_bytes + 4u) {
        return UINT32_MAX;
    }
    const uint8_t *ports = (const uint8_t *)p->payload + header_bytes;
    if (!tcp && !directory_has_udp((uint16_t)(ports[2] << 8 | ports[3]))) {
        return stack->core; /* to say so */
    }
    ip_addr_t source = IPADDR4_INIT(header->src.addr), destination = IPADDR4_INIT(header->dest.addr);
    if (probe_tuple(&source, &destination, (uint16_t)(ports[0] << 8 | ports[1]),
                    (uint16_t)(ports[2] << 8 | ports[3]), tcp, &core) != 0) {
        return UINT32_MAX;
    }
    return core;
}
#endif

/* Called by ip4_input() with the version checked. Reassembles here, so that lwIP never answers another core's
 * segment with RST, and checks what the hardware did not. Returns nonzero if the packet was consumed. */
int hook_ip4_input(struct pbuf *p, struct netif *input)
{
    struct stack *stack = instance;
    if (p->len < IP_HLEN) {
        return 0; /* lwIP drops it */
    }
    const struct ip_hdr *header = p->payload;
    u16_t header_bytes = IPH_HL_BYTES(header), total = lwip_ntohs(IPH_LEN(header));
    if (header_bytes < IP_HLEN || header_bytes > p->len || total > p->tot_len || total < header_bytes) {
        return 0;
    }
    const struct rx_buffer *buffer = rx_buffer_of(&stack->rx, p);
    bool fragment = (IPH_OFFSET(header) & PP_HTONS(IP_OFFMASK | IP_MF)) != 0;
    if (!fragment && IPH_PROTO(header) == IP_PROTO_ICMP) {
        icmp_error_input4(stack, p, header_bytes, total);
    }
    if (!fragment && (buffer == NULL || buffer->verified || p->next != NULL)) {
        return 0;
    }
    if (inet_chksum(header, header_bytes) != 0u) {
        stack->bad_checksum++;
        pbuf_free(p);
        return 1;
    }
    if (!fragment) {
        pbuf_realloc(p, total);
        if (!ports_checksum_ok(p, header)) {
            stack->bad_checksum++;
            pbuf_free(p);
            return 1;
        }
        return 0;
    }
#ifdef TWINSTACK_SMALL
    stack->rx.dropped++; /* fragments are not put together */
    pbuf_free(p);
    (void)input;
    return 1;
#else
    if (netif_of_address(stack, header->dest.addr) == NULL) {
        stack->rx.dropped++; /* fragments to a group: nobody listens */
        pbuf_free(p);
        return 1;
    }
    pbuf_realloc(p, total);
    p = ip4_reass(p);
    if (p == NULL) {
        return 1;
    }
    header = p->payload;
    uint32_t core = core_of(stack, p, header);
    if (core != stack->core) {
        stack->foreign++;
        handover_give(stack, core, (uint32_t)(input - stack->netifs), p);
        return 1;
    }
    if (!ports_checksum_ok(p, header)) {
        stack->bad_checksum++;
        pbuf_free(p);
        return 1;
    }
    ip4_input(p, input); /* whole now: comes back here with p->next set and passes */
    return 1;
#endif
}

static uint32_t rotate(uint32_t value, unsigned bits)
{
    return value << bits | value >> (32u - bits);
}

/* RFC 6528: a secret function of the tuple plus a clock. The mixing is SipHash's round on 32 bits
 * (HalfSipHash). */
u32_t hook_tcp_isn(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote, u16_t remote_port)
{
    uint32_t words[9] = {(uint32_t)local_port << 16 | remote_port};
    unsigned each = IP_IS_V6(local) ? 4u : 1u, count = 1u + 2u * each;
    memcpy(words + 1, address_words(local), 4u * each);
    memcpy(words + 1 + each, address_words(remote), 4u * each);
    const uint32_t *key = instance->isn_secret;
    uint32_t a = key[0], b = key[1], c = key[2] ^ 0x6c796765u, d = key[3] ^ 0x74656462u;
    for (unsigned i = 0; i < count + 4u; i++) {
        uint32_t word = i < count ? words[i] : 0u;
        d ^= word;
        a += b;
        b = rotate(b, 5) ^ a;
        a = rotate(a, 16);
        c += d;
        d = rotate(d, 8) ^ c;
        a += d;
        d = rotate(d, 7) ^ a;
        c += b;
        b = rotate(b, 13) ^ c;
        c = rotate(c, 16);
        a ^= word;
    }
    return (b ^ d) + time_ms() * ISN_STEPS_PER_MS;
}
