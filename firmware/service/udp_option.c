/* Options of datagram sockets, and groups. A membership lives on the cores of the socket; lwIP has it once for each
 * network port, however many sockets share it. */
#include "service.h"
#include "lwip/igmp.h"
#include "lwip/ip.h"
#include "lwip/mld6.h"
#include <string.h>

#define SEGMENT 1460u /* RCVBUF and SNDBUF count in these */

static int32_t set_peer(struct datagram *socket, const uint32_t *words)
{
    ip_addr_t address;
    uint16_t port;
    uint32_t bits = 0;
    if (TS_WORD_GET(words, TS_SOCKET_ADDRESS_FAMILY) == 0u) {
        for (uint32_t i = 0; i < TS_SOCKET_ADDRESS_WORDS; i++) {
            bits |= words[i];
        }
        if (bits != 0u) {
            return -E_INVAL;
        }
        udp_disconnect(socket->pcb);
        return 0;
    }
    int error = udp_parse(words, &address, &port);
    error = error == 0 && (port == 0u || ip_addr_isany(&address)) ? -E_INVAL : error;
    error = error != 0 ? error : udp_check_family(socket, &address);
    if (error == 0) {
        udp_connect(socket->pcb, &address, port);
        socket->error = 0;
    }
    return error;
}

/* --- Groups --- */

static int join_netif(struct netif *netif, const ip_addr_t *group, bool join)
{
    if (IP_IS_V6(group)) {
        if (ip6_addr_isallnodes_linklocal(ip_2_ip6(group)) || ip6_addr_isallnodes_iflocal(ip_2_ip6(group))) {
            return 0; /* every station is in it, and none says so (RFC 2710 5) */
        }
        err_t error = join ? mld6_joingroup_netif(netif, ip_2_ip6(group))
                           : mld6_leavegroup_netif(netif, ip_2_ip6(group));
        return error == ERR_OK ? 0 : -E_NOBUFS;
    }
    err_t error =
        join ? igmp_joingroup_netif(netif, ip_2_ip4(group)) : igmp_leavegroup_netif(netif, ip_2_ip4(group));
    return error == ERR_OK ? 0 : -E_NOBUFS;
}

static void leave(struct service *service, struct datagram *socket, uint32_t port, uint32_t index)
{
    struct group *group = &service->udp.groups[port][index];
    socket->joined[port] &= (uint8_t) ~(1u << index);
    if (--group->members == 0u) {
        join_netif(&service->stack->netifs[port], &group->address, false);
    }
}

void udp_leave_all(struct service *service, struct datagram *socket)
{
    for (uint32_t port = 0; port < TS_CONFIG_PORTS; port++) {
        for (uint32_t index = 0; index < UDP_GROUPS; index++) {
            if ((socket->joined[port] >> index & 1u) != 0u) {
                leave(service, socket, port, index);
            }
        }
    }
}

/* Entry of the group, else the first free one, else UDP_GROUPS. */
static uint32_t find_group(const struct service *service, uint32_t port, const ip_addr_t *address)
{
    uint32_t chosen = UDP_GROUPS;
    for (uint32_t index = UDP_GROUPS; index-- > 0u;) {
        const struct group *group = &service->udp.groups[port][index];
        if (group->members == 0u) {
            chosen = index;
        } else if (ip_addr_eq(&group->address, address)) {
            return index;
        }
    }
    return chosen;
}

static int32_t change_group(struct service *service, struct datagram *socket, const uint32_t *words,
                            bool join)
{
    struct stack *stack = service->stack;
    uint32_t address_words[TS_SOCKET_ADDRESS_WORDS];
    uint32_t scope = words[TS_SOCKET_ADDRESS_SCOPE_WORD];
    ip_addr_t address;
    uint16_t unused;
    memcpy(address_words, words, sizeof(address_words));
    address_words[TS_SOCKET_ADDRESS_SCOPE_WORD] = 0u;
    int error = udp_parse(address_words, &address, &unused);
    error = error != 0 ? error : udp_check_family(socket, &address);
    if (error != 0) {
        return error;
    }
    if (scope > stack->ports) {
        return -E_INVAL;
    }
    if (!ip_addr_ismulticast(&address)) {
        return -E_ADDRNOTAVAIL;
    }
    uint32_t port = scope - 1u;
    if (scope == 0u) {
        const struct netif *netif = ip_route(&socket->pcb->local_ip, &address);
        port = netif == NULL ? 0u : (uint32_t)(netif - stack->netifs);
    }
    struct netif *netif = &stack->netifs[port];
    if (IP_IS_V6(&address)) {
        ip6_addr_assign_zone(ip_2_ip6(&address), IP6_MULTICAST, netif);
    }
    uint32_t index = find_group(service, port, &address);
    bool joined = index < UDP_GROUPS && (socket->joined[port] >> index & 1u) != 0u;
    if (!join) {
        if (!joined) {
            return -E_ADDRNOTAVAIL;
        }
        leave(service, socket, port, index);
        return 0;
    }
    if (joined) {
        return 0;
    }
    if (index == UDP_GROUPS) {
        return -E_NOBUFS;
    }
    struct group *group = &service->udp.groups[port][index];
    if (group->members == 0u) {
        error = join_netif(netif, &address, true);
        if (error != 0) {
            return error;
        }
        group->address = address;
    }
    group->members++;
    socket->joined[port] |= (uint8_t)(1u << index);
    return 0;
}

/* --- Options --- */

static uint8_t segments(uint32_t bytes, uint8_t most)
{
    uint32_t count = bytes / SEGMENT + (bytes % SEGMENT != 0u ? 1u : 0u);
    return (uint8_t)LWIP_MIN(LWIP_MAX(count, 1u), most);
}

int32_t udp_set_option(struct service *service, struct datagram *socket, uint32_t option,
                       const uint32_t *inline_words)
{
    struct udp_pcb *pcb = socket->pcb;
    uint32_t value = inline_words[0], least = 0, most = UINT8_MAX;
    switch (option) {
    case TS_SOCKET_OPTION_PEER:
        return set_peer(socket, inline_words);
    case TS_SOCKET_OPTION_JOIN_GROUP:
    case TS_SOCKET_OPTION_LEAVE_GROUP:
        return change_group(service, socket, inline_words, option == TS_SOCKET_OPTION_JOIN_GROUP);
    case TS_SOCKET_OPTION_RCVBUF:
    case TS_SOCKET_OPTION_SNDBUF:
        most = INT32_MAX;
        break;
    case TS_SOCKET_OPTION_TTL:
        least = 1u;
        break;
    case TS_SOCKET_OPTION_TOS:
    case TS_SOCKET_OPTION_MULTICAST_TTL:
        break;
    case TS_SOCKET_OPTION_BROADCAST:
        most = 1u;
        break;
    case TS_SOCKET_OPTION_MULTICAST_INTERFACE:
        most = service->stack->ports;
        break;
    default:
        return -E_NOPROTOOPT;
    }
    uint32_t rest = 0;
    for (uint32_t i = 1; i < TS_SOCKET_ADDRESS_WORDS; i++) {
        rest |= inline_words[i];
    }
    if (rest != 0u || value < least || value > most) {
        return -E_INVAL;
    }
    switch (option) {
    case TS_SOCKET_OPTION_RCVBUF:
        socket->quota = segments(value, UDP_QUOTA);
        break;
    case TS_SOCKET_OPTION_SNDBUF:
        socket->tx_quota = segments(value, UDP_TX_QUOTA);
        break;
    case TS_SOCKET_OPTION_TTL:
        pcb->ttl = (u8_t)value;
        break;
    case TS_SOCKET_OPTION_TOS:
        pcb->tos = (u8_t)value;
        break;
    case TS_SOCKET_OPTION_BROADCAST:
        socket->broadcast = value != 0u;
        break;
    case TS_SOCKET_OPTION_MULTICAST_TTL:
        udp_set_multicast_ttl(pcb, (u8_t)value);
        break;
    default:
        udp_set_multicast_netif_index(
            pcb, value == 0u ? NETIF_NO_INDEX : netif_get_index(&service->stack->netifs[value - 1u]));
        break;
    }
    return 0;
}

int32_t udp_get_option(struct service *service, struct datagram *socket, uint32_t option)
{
    const struct udp_pcb *pcb = socket->pcb;
    int32_t value = 0;
    switch (option) {
    case TS_SOCKET_OPTION_TYPE:
        return 2; /* SOCK_DGRAM */
    case TS_SOCKET_OPTION_ERROR:
        value = socket->error;
        socket->error = 0;
        return value;
    case TS_SOCKET_OPTION_RCVBUF:
        return (int32_t)(socket->quota * SEGMENT);
    case TS_SOCKET_OPTION_SNDBUF:
        return (int32_t)(socket->tx_quota * SEGMENT);
    case TS_SOCKET_OPTION_TTL:
        return pcb->ttl;
    case TS_SOCKET_OPTION_TOS:
        return pcb->tos;
    case TS_SOCKET_OPTION_BROADCAST:
        return socket->broadcast ? 1 : 0;
    case TS_SOCKET_OPTION_MULTICAST_TTL:
        return udp_get_multicast_ttl(pcb);
    case TS_SOCKET_OPTION_MULTICAST_INTERFACE:
        for (uint32_t port = 0; port < service->stack->ports; port++) {
            value = netif_get_index(&service->stack->netifs[port]) == udp_get_multicast_netif_index(pcb)
                        ? (int32_t)port + 1
                        : value;
        }
        return value;
    default:
        return -E_NOPROTOOPT;
    }
}
