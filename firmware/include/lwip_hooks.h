/* Hooks that lwIP calls; see netif.c. */
#ifndef LWIP_HOOKS_H
#define LWIP_HOOKS_H

#include "lwip/ip_addr.h"

struct pbuf;
struct netif;

int hook_ip4_input(struct pbuf *p, struct netif *input);
u32_t hook_tcp_isn(const ip_addr_t *local, u16_t local_port, const ip_addr_t *remote, u16_t remote_port);

#define LWIP_HOOK_IP4_INPUT(p, input) hook_ip4_input(p, input)
#define LWIP_HOOK_TCP_ISN(local, local_port, remote, remote_port)                                            \
    hook_tcp_isn(local, local_port, remote, remote_port)

#endif
