/* ICMP errors about datagrams: lwIP tells nobody. What they quote begins with the datagram's headers (RFC 792, RFC 4443
 * 3.1); the addresses and ports lead to the socket. */
#include "stack.h"
#include "lwip/inet_chksum.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"
#include "lwip/prot/ip.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include <string.h>

#define PORT_UNREACHABLE 3u /* RFC 792, code */
#define ICMP_BYTES       8u /* before the quotation */
#define UDP_BYTES        8u /* its header */

static uint16_t port_at(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static void tell(const struct stack *stack, const ip_addr_t *peer, const uint8_t *ports)
{
    if (stack->unreachable != NULL) {
        stack->unreachable(stack->unreachable_context, peer, port_at(ports + 2), port_at(ports));
    }
}

static bool is_ours(const struct stack *stack, uint32_t address)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        if (netif_is_up(&stack->netifs[port]) && netif_ip4_addr(&stack->netifs[port])->addr == address) {
            return true;
        }
    }
    return false;
}

/* `p` starts at an IPv6 header that ICMPv6 follows; its checksum is good. */
void icmp_error_input6(struct stack *stack, const struct pbuf *p, const struct netif *input)
{
    const uint8_t *message = (const uint8_t *)p->payload + IP6_HLEN;
    const uint8_t *quoted = message + ICMP_BYTES;
    if (p->len < IP6_HLEN + ICMP_BYTES + IP6_HLEN + UDP_BYTES || message[0] != ICMP6_TYPE_DUR ||
        message[1] != ICMP6_DUR_PORT || quoted[0] >> 4 != 6u || quoted[6] != IP6_NEXTH_UDP) {
        return;
    }
    ip_addr_t source = IPADDR6_INIT(0, 0, 0, 0), peer = IPADDR6_INIT(0, 0, 0, 0);
    memcpy(ip_2_ip6(&source)->addr, quoted + 8, 16);
    memcpy(ip_2_ip6(&peer)->addr, quoted + 24, 16);
    ip6_addr_assign_zone(ip_2_ip6(&source), IP6_UNICAST, input);
    if (ports_has_address(input, &source)) {
        tell(stack, &peer, quoted + IP6_HLEN);
    }
}

/* `p` starts at a sane IPv4 header of `header_bytes`, is `total` bytes and no fragment; lwIP gets it afterwards. */
void icmp_error_input4(struct stack *stack, const struct pbuf *p, uint32_t header_bytes, uint32_t total)
{
    const uint8_t *message = (const uint8_t *)p->payload + header_bytes;
    const uint8_t *quoted = message + ICMP_BYTES;
    if (total > p->len || total < header_bytes + ICMP_BYTES + IP_HLEN + UDP_BYTES || message[0] != ICMP_DUR ||
        message[1] != PORT_UNREACHABLE) {
        return;
    }
    uint32_t length = total - header_bytes - ICMP_BYTES, quoted_bytes = (uint32_t)(quoted[0] & 15u) * 4u;
    bool first = (quoted[6] & 0x1Fu) == 0u && quoted[7] == 0u;
    if (quoted[0] >> 4 != 4u || quoted_bytes < IP_HLEN || quoted_bytes + UDP_BYTES > length || !first ||
        quoted[9] != IP_PROTO_UDP || inet_chksum(message, (u16_t)(length + ICMP_BYTES)) != 0u) {
        return;
    }
    uint32_t source, destination;
    memcpy(&source, quoted + 12, sizeof(source));
    memcpy(&destination, quoted + 16, sizeof(destination));
    if (is_ours(stack, source)) {
        ip_addr_t peer;
        ip_addr_set_ip4_u32_val(peer, destination);
        tell(stack, &peer, quoted + quoted_bytes);
    }
}
