/* IPv6 packets before lwIP sees them: checksums that hardware could not check, fragments, advertisements. */
#include "stack.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip.h"
#include "lwip/ip6_frag.h"
#include "lwip/mld6.h"
#include "lwip/prot/icmp6.h"
#include "lwip/prot/ip6.h"
#include "lwip/prot/udp.h"
#include "lwip_hooks.h"

#define FRAGMENT_UNIT 8u /* RFC 8200 4.5: all fragments but the last are whole units */

static struct stack *instance; /* lwIP's hooks have no context */

void ip6_init(struct stack *stack)
{
    instance = stack;
}

static const struct ip6_frag_hdr *fragment_at(const struct pbuf *p, uint32_t offset)
{
    return (const struct ip6_frag_hdr *)(const void *)((const uint8_t *)p->payload + offset);
}

/* Offset of what follows the extension headers, and its protocol; IP6_NEXTH_FRAGMENT is one of several fragments. 0: they
 * leave the first pbuf. */
static uint32_t walk(const struct pbuf *p, uint8_t *protocol)
{
    const uint8_t *bytes = p->payload;
    uint32_t offset = IP6_HLEN;
    *protocol = IP6H_NEXTH((const struct ip6_hdr *)p->payload);
    while (*protocol == IP6_NEXTH_HOPBYHOP || *protocol == IP6_NEXTH_DESTOPTS ||
           *protocol == IP6_NEXTH_ROUTING || *protocol == IP6_NEXTH_FRAGMENT) {
        if (offset + IP6_FRAG_HLEN > p->len) {
            return 0u;
        }
        if (*protocol == IP6_NEXTH_FRAGMENT) {
            if ((fragment_at(p, offset)->_fragment_offset &
                 PP_HTONS(IP6_FRAG_OFFSET_MASK | IP6_FRAG_MORE_FLAG)) != 0u) {
                return offset;
            }
            *protocol = bytes[offset];
            offset += IP6_FRAG_HLEN; /* RFC 6946 */
        } else {
            *protocol = bytes[offset];
            offset += 8u * (1u + bytes[offset + 1u]);
        }
    }
    return offset <= p->len ? offset : 0u;
}

bool ip6_checksum_ok(struct pbuf *p)
{
    const struct ip6_hdr *header = p->payload;
    ip6_addr_t source, destination;
    uint8_t protocol;
    uint32_t offset = walk(p, &protocol);
    if (offset == 0u) {
        return false;
    }
    if (protocol != IP6_NEXTH_TCP && protocol != IP6_NEXTH_UDP) {
        return true;
    }
    ip6_addr_copy_from_packed(source, header->src);
    ip6_addr_copy_from_packed(destination, header->dest);
    pbuf_remove_header(p, offset);
    bool none = protocol == IP6_NEXTH_UDP &&
                (p->len < UDP_HLEN || ((const struct udp_hdr *)p->payload)->chksum == 0u);
    bool ok =
        !none && ip6_chksum_pseudo(p, protocol, p->tot_len, &source, &destination) == 0u; /* RFC 8200 8.1 */
    pbuf_add_header_force(p, offset);
    return ok;
}

/* Which core a reassembled segment is for. A number that no core has if nobody knows. */
static uint32_t core_of(struct stack *stack, const struct pbuf *p)
{
    const struct ip6_hdr *header = p->payload;
    ip_addr_t source, destination;
    uint8_t protocol;
    uint32_t offset = walk(p, &protocol), core;
    bool tcp = protocol == IP6_NEXTH_TCP;
    if ((!tcp && protocol != IP6_NEXTH_UDP) || ip6_addr_ismulticast(&header->dest)) {
        return stack->core;
    }
    if (offset == 0u || p->len < offset + 4u) {
        return UINT32_MAX;
    }
    ip_addr_copy_from_ip6_packed(source, header->src);
    ip_addr_copy_from_ip6_packed(destination, header->dest);
    const uint8_t *ports = (const uint8_t *)p->payload + offset;
    if (!tcp && !directory_has_udp((uint16_t)(ports[2] << 8 | ports[3]))) {
        return stack->core; /* to say so */
    }
    int error = probe_tuple(&source, &destination, (uint16_t)(ports[0] << 8 | ports[1]),
                            (uint16_t)(ports[2] << 8 | ports[3]), tcp, &core);
    return error != 0 ? UINT32_MAX : core;
}

/* lwIP reassembles between its own checks and the delivery: here it does so before, as hook_ip4_input() says. */
static void reassemble(struct stack *stack, struct pbuf *p, struct netif *input, uint32_t offset)
{
    struct ip6_hdr *header = p->payload;
    uint32_t bytes = IP6_HLEN + IP6H_PLEN(header) - offset - IP6_FRAG_HLEN;
    bool more = (fragment_at(p, offset)->_fragment_offset & PP_HTONS(IP6_FRAG_MORE_FLAG)) != 0u;
    ip_addr_copy_from_ip6_packed(ip_data.current_iphdr_dest, header->dest);
    ip_addr_copy_from_ip6_packed(ip_data.current_iphdr_src, header->src);
    ip6_addr_assign_zone(ip_2_ip6(&ip_data.current_iphdr_dest), IP6_UNKNOWN, input);
    ip6_addr_assign_zone(ip_2_ip6(&ip_data.current_iphdr_src), IP6_UNICAST, input);
    ip_data.current_ip6_header = header;
    ip_data.current_netif = input;
    ip_data.current_input_netif = input;
    const ip6_addr_t *destination = ip6_current_dest_addr();
    bool ours = ip6_addr_ismulticast(destination) ? mld6_lookfor_group(input, destination) != NULL
                                                  : ports_has_address(input, ip_current_dest_addr());
    if (!ours || bytes == 0u || (more && bytes % FRAGMENT_UNIT != 0u)) {
        stack->rx.dropped++;
        pbuf_free(p);
        return;
    }
    pbuf_realloc(p, (u16_t)(IP6_HLEN + IP6H_PLEN(header)));
    pbuf_remove_header(p, offset);
    p = ip6_reass(p);
    if (p == NULL) {
        return;
    }
    header = p->payload;
    IP6H_PLEN_SET(header,
                  (u16_t)(p->tot_len - IP6_HLEN)); /* ip6_reass() leaves 8 too few, unused by lwIP itself */
    uint32_t core = core_of(stack, p);
    if (core != stack->core) {
        stack->foreign++;
        handover_give(stack, core, (uint32_t)(input - stack->netifs), p);
    } else if (!ip6_checksum_ok(p)) {
        stack->bad_checksum++;
        pbuf_free(p);
    } else {
        ip6_input(p, input); /* whole now: comes back to the hook with p->next set and passes */
    }
}

/* Called by ip6_input() with the version checked. Returns nonzero if the packet was consumed. */
int hook_ip6_input(struct pbuf *p, struct netif *input)
{
    struct stack *stack = instance;
    const struct ip6_hdr *header = p->payload;
    if (p->len < IP6_HLEN || IP6_HLEN + IP6H_PLEN(header) > p->tot_len) {
        return 0; /* lwIP drops it */
    }
    if (IP6H_NEXTH(header) == IP6_NEXTH_ICMP6 && p->len > IP6_HLEN &&
        ((const uint8_t *)p->payload)[IP6_HLEN] == ICMP6_TYPE_RA && !input->ip6_autoconfig_enabled) {
        pbuf_free(p); /* prefixes and routers are those that were configured */
        return 1;
    }
    const struct rx_buffer *buffer = rx_buffer_of(&stack->rx, p);
    if (buffer != NULL && buffer->verified && IP6H_NEXTH(header) == IP6_NEXTH_ICMP6) {
        icmp_error_input6(stack, p, input);
    }
    if (buffer == NULL || buffer->verified || p->next != NULL) {
        return 0;
    }
    uint8_t protocol;
    uint32_t offset = walk(p, &protocol);
    if (offset != 0u && protocol == IP6_NEXTH_FRAGMENT) {
        if ((uint32_t)IP6_HLEN + IP6H_PLEN(header) < offset + IP6_FRAG_HLEN) {
            return 0;
        }
        reassemble(stack, p, input, offset);
        return 1;
    }
    pbuf_realloc(p, (u16_t)(IP6_HLEN + IP6H_PLEN(header)));
    if (!ip6_checksum_ok(p)) {
        stack->bad_checksum++;
        pbuf_free(p);
        return 1;
    }
    return 0;
}
