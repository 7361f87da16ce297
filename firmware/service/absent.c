/* What the small profile leaves out: IPv6, UDP, DHCP, DNS, groups, fragments. Operations that need it end with EOPNOTSUPP. */
#include "service.h"
#include "lwip/ethip6.h"
#include "lwip/icmp6.h"
#include "lwip/ip6.h"
#include "lwip/mld6.h"
#include "lwip/nd6.h"
#include "lwip/priv/nd6_priv.h"
#include "lwip_hooks.h"

/* --- the service's --- */

void udp_service_init(struct service *service)
{
    (void)service;
}

void udp_open(struct service *service, struct op *op, const uint32_t *sqe)
{
    (void)sqe;
    op_finish(service, op, -E_OPNOTSUPP);
}

struct datagram *udp_of_handle(struct service *service, uint32_t handle, uint8_t host)
{
    (void)service, (void)handle, (void)host;
    return NULL;
}

void udp_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe)
{
    (void)socket, (void)sqe;
    op_finish(service, op, -E_OPNOTSUPP);
}

bool udp_message(struct service *service, const uint32_t words[4])
{
    (void)service, (void)words;
    return false;
}

bool udp_cancel(struct service *service, uint32_t user_low, uint32_t user_high, uint8_t host)
{
    (void)service, (void)user_low, (void)user_high, (void)host;
    return false;
}

void udp_pump(struct service *service)
{
    (void)service;
}

uint32_t udp_held(void)
{
    return 0u;
}

void resolve_start(struct service *service, struct op *op, const uint32_t *sqe)
{
    (void)sqe;
    op_finish(service, op, -E_OPNOTSUPP);
}

/* --- the drivers' --- */

void dns_rebuild(struct stack *stack)
{
    (void)stack;
}

void lease_init(struct stack *stack)
{
    (void)stack;
}

bool lease_runs(struct stack *stack, uint32_t port)
{
    (void)stack, (void)port;
    return false;
}

bool lease_bound(struct stack *stack, uint32_t port)
{
    (void)stack, (void)port;
    return false;
}

uint32_t lease_seconds(struct stack *stack, uint32_t port)
{
    (void)stack, (void)port;
    return 0u;
}

void lease_stop(struct stack *stack, uint32_t port, bool release)
{
    (void)stack, (void)port, (void)release;
}

void lease_update(struct stack *stack, uint32_t port)
{
    (void)stack, (void)port;
}

void lease_tick(struct stack *stack)
{
    (void)stack;
}

void multicast_init(struct stack *stack)
{
    (void)stack;
}

void multicast_tick(struct stack *stack)
{
    (void)stack;
}

int multicast_filter(struct stack *stack, uint32_t port, const uint8_t mac[6], bool join)
{
    (void)stack, (void)port, (void)mac, (void)join;
    return 0;
}

void handover_init(struct stack *stack)
{
    (void)stack;
}

void handover_message(struct stack *stack, uint32_t sender, const uint32_t words[4])
{
    (void)stack, (void)sender, (void)words;
}

void handover_tick(struct stack *stack)
{
    (void)stack;
}

void ip6_init(struct stack *stack)
{
    (void)stack;
}

bool ip6_checksum_ok(struct pbuf *p)
{
    (void)p;
    return false;
}

/* --- lwIP's: frames of IPv6 are dropped, nothing is sent --- */

struct nd6_neighbor_cache_entry neighbor_cache[LWIP_ND6_NUM_NEIGHBORS];
struct nd6_prefix_list_entry prefix_list[LWIP_ND6_NUM_PREFIXES];
struct nd6_router_list_entry default_router_list[LWIP_ND6_NUM_ROUTERS];

err_t ip6_input(struct pbuf *p, struct netif *input)
{
    (void)input;
    pbuf_free(p);
    return ERR_OK;
}

err_t ethip6_output(struct netif *netif, struct pbuf *p, const ip6_addr_t *address)
{
    (void)netif, (void)p, (void)address;
    return ERR_RTE;
}

err_t ip6_output_if(struct pbuf *p, const ip6_addr_t *source, const ip6_addr_t *destination, u8_t hop_limit,
                    u8_t traffic_class, u8_t next_header, struct netif *netif)
{
    (void)p, (void)source, (void)destination, (void)hop_limit, (void)traffic_class, (void)next_header,
        (void)netif;
    return ERR_RTE;
}

struct netif *ip6_route(const ip6_addr_t *source, const ip6_addr_t *destination)
{
    (void)source, (void)destination;
    return NULL;
}

const ip_addr_t *ip6_select_source_address(struct netif *netif, const ip6_addr_t *destination)
{
    (void)netif, (void)destination;
    return NULL;
}

void icmp6_dest_unreach(struct pbuf *p, enum icmp6_dur_code code)
{
    (void)p, (void)code;
}

void nd6_restart_netif(struct netif *netif)
{
    (void)netif;
}

void nd6_cleanup_netif(struct netif *netif)
{
    (void)netif;
}

void nd6_clear_destination_cache(void)
{
}

void nd6_tmr(void)
{
}

void ip6_reass_tmr(void)
{
}

u16_t nd6_get_destination_mtu(const ip6_addr_t *address, struct netif *netif)
{
    (void)address;
    return netif->mtu;
}
