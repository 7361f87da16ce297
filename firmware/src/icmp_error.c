/* ICMP messages that lwIP tells nobody of: errors about datagrams, connections and echo requests of ours, and the answers
 * to echo requests. What an error quotes begins with the packet's headers (RFC 792, RFC 4443 3.1); the addresses and ports
 * lead to the socket. */
#include "stack.h"
#include "lwip/inet_chksum.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"
#include "lwip/prot/ip.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include <string.h>

#define QUOTED_BYTES 8u /* of TCP, UDP or ICMP */

/* Codes of "destination unreachable", RFC 792 and RFC 1122 3.2.2.1. */
enum { NETWORK = 0, PROTOCOL = 2, PORT = 3, TOO_LONG = 4, NETWORK_UNKNOWN = 6, NETWORK_FOR_SERVICE = 11 };

static uint16_t port_at(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t word_at(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof(word));
    return word;
}

static void tell(const struct stack *stack, const ip_addr_t *peer, uint32_t protocol, const uint8_t *quoted,
                 int error)
{
    void *context = stack->unreachable_context;
    if (context == NULL) {
        return; /* nobody asks */
    }
    if (protocol == IP_PROTO_TCP) {
        stack->tcp_unreachable(context, peer, quoted, error);
    } else if (protocol == IP_PROTO_UDP && error == E_CONNREFUSED) {
        stack->unreachable(context, peer, port_at(quoted + 2), port_at(quoted));
    } else if (protocol == (IP_IS_V6(peer) ? IP6_NEXTH_ICMP6 : IP_PROTO_ICMP) &&
               quoted[0] == (IP_IS_V6(peer) ? ICMP6_TYPE_EREQ : ICMP_ECHO)) {
        stack->echo(context, word_at(quoted + 4), -E_HOSTUNREACH);
    }
}

/* An answer to an echo request: its payload must be the pattern that ping.c sends. */
static void echo(const struct stack *stack, const uint8_t *message, uint32_t bytes)
{
    uint32_t i = ICMP_BYTES;
    while (i < bytes && message[i] == (uint8_t)(i - ICMP_BYTES)) {
        i++;
    }
    if (stack->unreachable_context != NULL && i == bytes) {
        stack->echo(stack->unreachable_context, word_at(message + 4), (int32_t)(bytes - ICMP_BYTES));
    }
}

/* `p` starts at an IPv6 header that ICMPv6 follows; its checksum is good. */
void icmp_error_input6(struct stack *stack, const struct pbuf *p, const struct netif *input)
{
    const struct ip6_hdr *header = p->payload;
    const uint8_t *message = (const uint8_t *)p->payload + IP6_HLEN;
    const uint8_t *quoted = message + ICMP_BYTES;
    uint32_t length = IP6H_PLEN(header);
    if (length + IP6_HLEN > p->len || length < ICMP_BYTES) {
        return;
    }
    if (message[0] == ICMP6_TYPE_EREP) {
        echo(stack, message, length);
        return;
    }
    if (length < ICMP_BYTES + IP6_HLEN + QUOTED_BYTES || message[0] != ICMP6_TYPE_DUR ||
        quoted[0] >> 4 != 6u) {
        return;
    }
    ip_addr_t source = IPADDR6_INIT(0, 0, 0, 0), peer = IPADDR6_INIT(0, 0, 0, 0);
    memcpy(ip_2_ip6(&source)->addr, quoted + 8, 16);
    memcpy(ip_2_ip6(&peer)->addr, quoted + 24, 16);
    ip6_addr_assign_zone(ip_2_ip6(&source), IP6_UNICAST, input);
    if (ports_has_address(input, &source)) {
        tell(stack, &peer, quoted[6], quoted + IP6_HLEN,
             message[1] == ICMP6_DUR_PORT       ? E_CONNREFUSED
             : message[1] == ICMP6_DUR_NO_ROUTE ? E_NETUNREACH
                                                : E_HOSTUNREACH);
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

/* 0: no matter of reachability. */
static int error_of(uint8_t code)
{
    return code == PORT || code == PROTOCOL                                            ? E_CONNREFUSED
           : code == TOO_LONG                                                          ? 0
           : code == NETWORK || code == NETWORK_UNKNOWN || code == NETWORK_FOR_SERVICE ? E_NETUNREACH
                                                                                       : E_HOSTUNREACH;
}

/* `p` starts at a sane IPv4 header of `header_bytes`, is `total` bytes and no fragment; lwIP gets it afterwards. */
void icmp_error_input4(struct stack *stack, const struct pbuf *p, uint32_t header_bytes, uint32_t total)
{
    const uint8_t *message = (const uint8_t *)p->payload + header_bytes;
    const uint8_t *quoted = message + ICMP_BYTES;
    if (total > p->len || total < header_bytes + ICMP_BYTES) {
        return;
    }
    uint32_t length = total - header_bytes - ICMP_BYTES;
    if (message[0] == ICMP_ER) {
        echo(stack, message, total - header_bytes);
        return;
    }
    if (message[0] != ICMP_DUR || length < IP_HLEN + QUOTED_BYTES || error_of(message[1]) == 0) {
        return;
    }
    uint32_t quoted_bytes = (uint32_t)(quoted[0] & 15u) * 4u;
    bool first = (quoted[6] & 0x1Fu) == 0u && quoted[7] == 0u;
    if (quoted[0] >> 4 != 4u || quoted_bytes < IP_HLEN || quoted_bytes + QUOTED_BYTES > length || !first ||
        inet_chksum(message, (u16_t)(length + ICMP_BYTES)) != 0u || !is_ours(stack, word_at(quoted + 12))) {
        return;
    }
    /* RFC 1122 4.1.3.3: only a closed port is an error of a datagram socket. */
    int error = error_of(message[1]);
    bool refused = error != E_CONNREFUSED || message[1] == PORT || quoted[9] != IP_PROTO_UDP;
    ip_addr_t peer;
    ip_addr_set_ip4_u32_val(peer, word_at(quoted + 16));
    if (refused) {
        tell(stack, &peer, quoted[9], quoted + quoted_bytes, error);
    }
}
