/* DHCP (RFC 2131), on the manager core alone, and the DNS servers that configuration, leases and router advertisements
 * name. A lease reaches the other cores as their configuration. */
#include "stack.h"
#include "lwip/dhcp.h"
#include "lwip/dns.h"
#include "lwip/ip.h"
#include "lwip/prot/dhcp.h"
#include "lwip_hooks.h"
#undef dns_setserver

#define COARSE_SECONDS 60u /* lwIP counts leases in minutes */

static struct stack *instance; /* lwIP's hooks have no context */

static uint32_t port_of(const struct netif *netif)
{
    return (uint32_t)(netif - instance->netifs);
}

/* --- DNS servers: those of the port that was configured last first, no gaps --- */

void dns_rebuild(struct stack *stack)
{
    u8_t count = 0;
    for (uint32_t i = 0; i < stack->ports; i++) {
        uint32_t port = (stack->dns_first + i) % stack->ports;
        for (uint32_t j = 0; j < DNS_IPV4_SERVERS; j++) {
            if (stack->dns[port].ip4[j] != 0u) {
                ip_addr_t address = IPADDR4_INIT(stack->dns[port].ip4[j]);
                dns_setserver(count++, &address);
            }
        }
        if (!ip6_addr_isany(&stack->dns[port].ip6)) {
            ip_addr_t address;
            ip_addr_copy_from_ip6(address, stack->dns[port].ip6);
            dns_setserver(count++, &address);
        }
    }
    while (count < DNS_MAX_SERVERS) {
        dns_setserver(count++, NULL);
    }
}

/* For lwIP's dns_setserver() in leases and router advertisements, which know one interface only. */
void hook_dns_server(u8_t number, const ip_addr_t *server)
{
    uint32_t port = port_of(ip_current_input_netif());
    if (server == NULL) {
        ip6_addr_set_zero(&instance->dns[port].ip6); /* only advertisements withdraw a server */
    } else if (IP_IS_V6(server)) {
        ip6_addr_copy(instance->dns[port].ip6, *ip_2_ip6(server));
    } else if (number < DNS_IPV4_SERVERS) {
        instance->dns[port].ip4[number] = ip_2_ip4(server)->addr;
    }
    dns_rebuild(instance);
}

/* --- Leases --- */

static void on_status(struct netif *netif)
{
    uint32_t port = port_of(netif);
    if (instance->lease_changed != NULL && instance->dhcp[port] && stack_manager() == instance->core) {
        instance->lease_changed(instance->lease_context, port);
    }
}

void lease_init(struct stack *stack)
{
    instance = stack;
    for (uint32_t port = 0; port < stack->ports; port++) {
        netif_set_status_callback(&stack->netifs[port], on_status);
    }
}

static struct dhcp *client_of(struct stack *stack, uint32_t port)
{
    return netif_dhcp_data(&stack->netifs[port]);
}

bool lease_runs(struct stack *stack, uint32_t port)
{
    const struct dhcp *client = client_of(stack, port);
    return client != NULL && client->state != DHCP_STATE_OFF;
}

bool lease_bound(struct stack *stack, uint32_t port)
{
    return lease_runs(stack, port) && dhcp_supplied_address(&stack->netifs[port]) != 0u;
}

uint32_t lease_seconds(struct stack *stack, uint32_t port)
{
    const struct dhcp *client = client_of(stack, port);
    if (!lease_bound(stack, port)) {
        return 0u;
    }
    if (client->offered_t0_lease == UINT32_MAX) {
        return UINT32_MAX; /* RFC 2131 3.3: for ever */
    }
    uint32_t left = client->t0_timeout > client->lease_used
                        ? (uint32_t)(client->t0_timeout - client->lease_used) * COARSE_SECONDS
                        : 0u;
    return LWIP_MIN(left, client->offered_t0_lease);
}

/* An address that is there comes from another core's lease: ask for it again (INIT-REBOOT, RFC 2131 3.2). */
static void start(struct stack *stack, uint32_t port)
{
    struct netif *netif = &stack->netifs[port];
    uint32_t address = netif_ip4_addr(netif)->addr;
    u8_t flags = netif->flags;
    if (address != 0u) {
        netif->flags = (u8_t)(flags & ~NETIF_FLAG_LINK_UP); /* makes dhcp_start() wait for a link */
    }
    bool started = dhcp_start(netif) == ERR_OK;
    netif->flags = flags;
    if (started && address != 0u) {
        struct dhcp *client = client_of(stack, port);
        client->offered_ip_addr.addr = address;
        client->state = DHCP_STATE_REBOOTING;
        if (netif_is_link_up(netif)) {
            dhcp_network_changed_link_up(netif);
        }
    }
}

void lease_stop(struct stack *stack, uint32_t port, bool release)
{
    if (lease_runs(stack, port)) {
        if (!release) {
            client_of(stack, port)->state = DHCP_STATE_INIT; /* the lease is another core's now */
        }
        dhcp_release_and_stop(&stack->netifs[port]);
    }
}

/* The role of the manager may have moved. */
void lease_update(struct stack *stack, uint32_t port)
{
    bool runs = lease_runs(stack, port), wanted = stack->dhcp[port] && stack_manager() == stack->core;
    if (wanted && !runs) {
        start(stack, port); /* without memory again at the next tick */
    } else if (runs && !wanted) {
        lease_stop(stack, port, false);
    }
}

void lease_tick(struct stack *stack)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        if (stack->dhcp[port]) {
            lease_update(stack, port);
        }
    }
}
