/* Hooks that lwIP calls; see netif.c. */
#ifndef LWIP_HOOKS_H
#define LWIP_HOOKS_H

#include "lwip/ip_addr.h"

struct pbuf;
struct netif;

int hook_ip4_input(struct pbuf *p, struct netif *input);
int hook_ip6_input(struct pbuf *p, struct netif *input);
struct netif *hook_ip6_route(const ip6_addr_t *source, const ip6_addr_t *destination);
const ip6_addr_t *hook_nd6_gateway(struct netif *netif, const ip6_addr_t *destination);
u32_t hook_tcp_isn(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote, u16_t remote_port);

void hook_dns_server(u8_t number, const ip_addr_t *server);

/* In lwIP's DHCP client and in its neighbour discovery: each would overwrite what the other set. */
#define dns_setserver(number, server)            hook_dns_server(number, server)
#define LWIP_HOOK_IP4_INPUT(p, input)            hook_ip4_input(p, input)
#define LWIP_HOOK_IP6_INPUT(p, input)            hook_ip6_input(p, input)
#define LWIP_HOOK_IP6_ROUTE(source, destination) hook_ip6_route(source, destination)
#define LWIP_HOOK_ND6_GET_GW(netif, destination) hook_nd6_gateway(netif, destination)
#define LWIP_HOOK_TCP_ISN(local, local_port, remote, remote_port)                                            \
    hook_tcp_isn(local, local_port, remote, remote_port)

#endif
