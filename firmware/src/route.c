/* Where packets go: lwIP's tables, asked before a connection begins and after it failed. */
#include "stack.h"
#include "lwip/etharp.h"
#include "lwip/ip4.h"
#include "lwip/ip6.h"
#include "lwip/nd6.h"
#include "lwip/priv/nd6_priv.h"
#include "lwip_hooks.h"
#include <string.h>

static struct stack *instance; /* lwIP's hooks have no context */

void route_init(struct stack *stack)
{
    instance = stack;
}

bool ports_has_address(const struct netif *netif, const ip_addr_t *address)
{
    struct netif *n = (struct netif *)(uintptr_t)netif;
    return IP_IS_V6(address) ? netif_get_ip6_addr_match(n, ip_2_ip6(address)) >= 0
                             : netif_ip4_addr(n)->addr == ip_2_ip4(address)->addr;
}

/* RFC 5942: an address of router advertisements says nothing about its neighbours, a configured one has its /64. */
static bool on_link(const struct netif *netif, const ip6_addr_t *address)
{
    for (uint32_t i = 0; i < LWIP_ND6_NUM_PREFIXES; i++) {
        if (prefix_list[i].netif == netif && prefix_list[i].invalidation_timer != 0u &&
            ip6_addr_net_eq(address, &prefix_list[i].prefix)) {
            return true;
        }
    }
    for (s8_t i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++) {
        if (ip6_addr_isvalid(netif_ip6_addr_state(netif, i)) && netif_ip6_addr_isstatic(netif, i) &&
            ip6_addr_net_eq(address, netif_ip6_addr(netif, i))) {
            return true;
        }
    }
    return ip6_addr_islinklocal(address);
}

static const ip6_addr_t *static_router(const struct netif *netif)
{
    const ip6_addr_t *router = &instance->routers6[netif - instance->netifs];
    return ip6_addr_isany(router) ? NULL : router;
}

/* Called for destinations that are not on the link. */
const ip6_addr_t *hook_nd6_gateway(struct netif *netif, const ip6_addr_t *destination)
{
    (void)destination;
    return static_router(netif);
}

/* A configured router makes its port the default route, but not for the neighbours of the others. */
struct netif *hook_ip6_route(const ip6_addr_t *source, const ip6_addr_t *destination)
{
    (void)source;
    struct netif *found = NULL, *netif;
    NETIF_FOREACH(netif)
    {
        if (netif_is_up(netif) && netif_is_link_up(netif)) {
            if (on_link(netif, destination)) {
                return netif;
            }
            found = static_router(netif) != NULL ? netif : found;
        }
    }
    return found;
}

const ip6_addr_t *ports_router6(const struct netif *netif)
{
    if (static_router(netif) != NULL) {
        return static_router(netif);
    }
    for (uint32_t i = 0; i < LWIP_ND6_NUM_ROUTERS; i++) {
        const struct nd6_neighbor_cache_entry *entry = default_router_list[i].neighbor_entry;
        if (entry != NULL && entry->netif == netif && default_router_list[i].invalidation_timer != 0u) {
            return &entry->next_hop_address;
        }
    }
    return NULL;
}

static struct netif *route6(ip6_addr_t *remote, ip_addr_t *local, ip_addr_t *next_hop)
{
    if (ip6_addr_isany(remote) || ip6_addr_ismulticast(remote)) {
        return NULL;
    }
    if (ip6_addr_lacks_zone(remote, IP6_UNICAST) && netif_default != NULL) {
        ip6_addr_assign_zone(remote, IP6_UNICAST, netif_default);
    }
    struct netif *netif = ip6_route(IP6_ADDR_ANY6, remote);
    const ip_addr_t *source = netif == NULL ? NULL : ip6_select_source_address(netif, remote);
    if (source == NULL || (ip6_addr_islinklocal(ip_2_ip6(source)) && !ip6_addr_islinklocal(remote))) {
        return NULL;
    }
    const ip6_addr_t *hop = on_link(netif, remote) ? remote : ports_router6(netif);
    if (hop == NULL) {
        return NULL;
    }
    ip_addr_copy(*local, *source);
    ip_addr_copy_from_ip6(*next_hop, *hop);
    return netif;
}

struct netif *ports_route(ip_addr_t *remote, ip_addr_t *local, ip_addr_t *next_hop)
{
    if (IP_IS_V6(remote)) {
        return route6(ip_2_ip6(remote), local, next_hop);
    }
    const ip4_addr_t *ip4 = ip_2_ip4(remote);
    struct netif *netif = ip4_route(ip4);
    if (netif == NULL || ip4->addr == 0u || netif_ip4_addr(netif)->addr == 0u) {
        return NULL;
    }
    bool direct = ip4_addr_net_eq(ip4, netif_ip4_addr(netif), netif_ip4_netmask(netif));
    if (!direct && netif_ip4_gw(netif)->addr == 0u) {
        return NULL;
    }
    ip_addr_copy_from_ip4(*local, *netif_ip4_addr(netif));
    ip_addr_copy_from_ip4(*next_hop, *(direct ? ip4 : netif_ip4_gw(netif)));
    return netif;
}

bool ports_neighbour_known(struct stack *stack, const uint32_t next_hop[4])
{
    const ip4_addr_t ip4 = {next_hop[0]};
    if ((next_hop[1] | next_hop[2] | next_hop[3]) != 0u) {
        for (uint32_t i = 0; i < LWIP_ND6_NUM_NEIGHBORS; i++) {
            if (neighbor_cache[i].state >= ND6_REACHABLE &&
                memcmp(neighbor_cache[i].next_hop_address.addr, next_hop, 16u) == 0) {
                return true;
            }
        }
        return false;
    }
    for (uint32_t port = 0; port < stack->ports; port++) {
        struct eth_addr *mac;
        const ip4_addr_t *address;
        if (etharp_find_addr(&stack->netifs[port], &ip4, &mac, &address) >= 0) {
            return true;
        }
    }
    return false;
}
