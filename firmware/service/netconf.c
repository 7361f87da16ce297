/* Address configuration: the manager applies it and passes it to the other cores in parts.
 *
 * Word 0 of a message: kind, port, number of the configuration, part. PART {3 words of it}, ACK {} of the whole, HELLO {} from
 * a core that has booted and asks for what is configured. A configuration is applied when all parts of one number have
 * come in order; what is not acknowledged is sent again as a whole. */
#include "service.h"
#include "lwip/dhcp.h"
#include <string.h>

#define ACK_TIMEOUT_MS                                                                                       \
    1000u /* a living core answers within a few event loops, which may be slow in a simulation */
#define RETRY_MS   50u
#define PART_WORDS 3u
#define PARTS      (NETCONF_WORDS / PART_WORDS)

enum { KIND_PART = 1, KIND_ACK = 3, KIND_HELLO = 4 };

#define HEADER(kind, port, number) ((uint32_t)(kind) | (uint32_t)(port) << 8 | (uint32_t)(number) << 16)
#define PART_SHIFT                 24u

#define HAS_DHCP          0x100u
#define HAS_AUTOCONFIGURE 0x200u
#define MULTICAST_FIRST   0xE0u /* RFC 1112 4, and the reserved ones behind */
#define AUTOMATIC_MASK                                                                                       \
    (TS_NETIF_CONFIG_FAMILY_MASK | TS_NETIF_CONFIG_PREFIX_LENGTH_MASK | TS_NETIF_CONFIG_DHCP_MASK)

static uint32_t mac_low(const uint8_t mac[6])
{
    return (uint32_t)mac[0] | (uint32_t)mac[1] << 8 | (uint32_t)mac[2] << 16 | (uint32_t)mac[3] << 24;
}

static uint32_t mac_high(const uint8_t mac[6])
{
    return (uint32_t)mac[4] | (uint32_t)mac[5] << 8;
}

static void put_mac(uint8_t mac[6], uint32_t low, uint32_t high)
{
    for (uint32_t i = 0; i < 6u; i++) {
        mac[i] = (uint8_t)(i < 4u ? low >> 8u * i : high >> 8u * (i - 4u));
    }
}

static void pack(uint32_t words[NETCONF_WORDS], const struct port_config *config)
{
    words[0] = config->prefix_length | (config->dhcp ? HAS_DHCP : 0u) |
               (config->autoconfigure ? HAS_AUTOCONFIGURE : 0u) | mac_high(config->mac) << 16;
    words[1] = mac_low(config->mac);
    words[2] = config->address;
    words[3] = config->gateway;
    memcpy(words + 4, config->dns, sizeof(config->dns));
    memcpy(words + 6, config->address6, sizeof(config->address6));
    memcpy(words + 10, config->router6, sizeof(config->router6));
}

static void unpack(const uint32_t words[NETCONF_WORDS], struct port_config *config)
{
    config->prefix_length = (uint8_t)words[0];
    config->dhcp = (words[0] & HAS_DHCP) != 0u;
    config->autoconfigure = (words[0] & HAS_AUTOCONFIGURE) != 0u;
    put_mac(config->mac, words[1], words[0] >> 16);
    config->address = words[2];
    config->gateway = words[3];
    memcpy(config->dns, words + 4, sizeof(config->dns));
    memcpy(config->address6, words + 6, sizeof(config->address6));
    memcpy(config->router6, words + 10, sizeof(config->router6));
}

static void set_config(struct service *service, uint32_t port, const struct port_config *config)
{
    service->netconf.config[port] = *config;
    service->netconf.configured[port] = true;
    ports_configure(service->stack, port, config);
}

/* A core between its HELLO and its first frame gets the configuration too. */
static uint32_t others_alive(const struct service *service)
{
    uint32_t alive = TS_GET(mmio_read(TS_DISPATCH_STATE), TS_DISPATCH_STATE_ALIVE);
    return (alive | service->netconf.greeted) & ~(1u << service->stack->core);
}

static void mark(struct service *service, uint32_t cores, uint32_t port)
{
    for (uint32_t core = 0; core < service->stack->cores; core++) {
        if ((cores >> core & 1u) != 0u) {
            service->netconf.dirty[core] |= (uint8_t)(1u << port);
            service->netconf.sent[core] &= (uint8_t) ~(1u << port);
            service->netconf.busy = true;
        }
    }
}

static void tell_others(struct service *service, uint32_t port)
{
    service->netconf.number[port]++;
    mark(service, others_alive(service), port);
}

/* A lease of the manager has come, changed or gone. */
static void on_lease(void *context, uint32_t port)
{
    struct service *service = context;
    struct netif *netif = &service->stack->netifs[port];
    struct port_config *config = &service->netconf.config[port], old = *config;
    uint32_t mask = lwip_ntohl(netif_ip4_netmask(netif)->addr);
    config->address = netif_ip4_addr(netif)->addr;
    config->gateway = config->address != 0u ? netif_ip4_gw(netif)->addr : 0u;
    config->prefix_length = 0;
    while (config->address != 0u && config->prefix_length < 32u &&
           (mask >> (31u - config->prefix_length) & 1u) != 0u) {
        config->prefix_length++;
    }
    memcpy(config->dns, service->stack->dns[port].ip4, sizeof(config->dns));
    if (memcmp(&old, config, sizeof(old)) != 0) {
        tell_others(service, port);
        if (config->gateway != 0u) {
            netif_set_default(netif);
        }
    }
}

int netconf_init(struct service *service)
{
    uint32_t words[4] = {HEADER(KIND_HELLO, 0, 0), 0, 0, 0};
    uint32_t manager = stack_manager();
    service->stack->lease_changed = on_lease;
    service->stack->lease_context = service;
    return manager == service->stack->core ? 0 : message_send(&service->stack->message, manager, words);
}

static bool is_group(uint32_t address)
{
    return (address & 0xFFu) >= MULTICAST_FIRST;
}

static int parse4(const uint32_t *words, struct port_config *config)
{
    uint32_t low = words[TS_NETIF_CONFIG_MAC_WORD], high = words[TS_NETIF_CONFIG_MAC_WORD + 1u];
    uint32_t prefix = TS_WORD_GET(words, TS_NETIF_CONFIG_PREFIX_LENGTH);
    uint32_t address = words[TS_NETIF_CONFIG_ADDRESS_WORD], gateway = words[TS_NETIF_CONFIG_GATEWAY_WORD];
    uint32_t dns0 = words[TS_NETIF_CONFIG_DNS0_WORD], dns1 = words[TS_NETIF_CONFIG_DNS1_WORD];
    bool dhcp = TS_WORD_GET(words, TS_NETIF_CONFIG_DHCP) != 0u;
    if (prefix > 32u || (words[0] & ~(uint32_t)AUTOMATIC_MASK) != 0u || high >> 16 != 0u || words[7] != 0u ||
        (low & 1u) != 0u || is_group(address) || is_group(gateway) || is_group(dns0) || is_group(dns1) ||
        (dhcp && (prefix | address | gateway | dns0 | dns1) != 0u)) {
        return -E_INVAL; /* a group address is no station's */
    }
    if (!dhcp || !config->dhcp) { /* otherwise the lease stays */
        config->address = address;
        config->gateway = gateway;
        config->prefix_length = (uint8_t)prefix;
        config->dns[0] = dns0 != 0u ? dns0 : dns1;
        config->dns[1] = dns0 != 0u ? dns1 : 0u;
    }
    config->dhcp = dhcp;
    if ((low | high) != 0u) {
        put_mac(config->mac, low, high);
    }
    return 0;
}

static int parse6(const uint32_t *words, struct port_config *config)
{
    const uint32_t *bytes = words + TS_NETIF_CONFIG6_ADDRESS_WORD;
    const ip_addr_t address = IPADDR6_INIT(bytes[0], bytes[1], bytes[2], bytes[3]);
    const ip6_addr_t *ip6 = ip_2_ip6(&address);
    uint32_t prefix = TS_WORD_GET(words, TS_NETIF_CONFIG6_PREFIX_LENGTH);
    uint32_t known = TS_NETIF_CONFIG6_FAMILY_MASK | TS_NETIF_CONFIG6_PREFIX_LENGTH_MASK |
                     TS_NETIF_CONFIG6_AUTOCONFIGURE_MASK;
    if ((words[0] & ~known) != 0u || words[7] != 0u || prefix != (ip6_addr_isany(ip6) ? 0u : 64u) ||
        ip6_addr_ismulticast(ip6) || ip6_addr_isloopback(ip6) || ip6_addr_isipv4mappedipv6(ip6)) {
        return -E_INVAL;
    }
    memcpy(config->address6, bytes, sizeof(config->address6));
    memcpy(config->router6, words + TS_NETIF_CONFIG6_GATEWAY_WORD, sizeof(config->router6));
    config->autoconfigure = TS_WORD_GET(words, TS_NETIF_CONFIG6_AUTOCONFIGURE) != 0u;
    return 0;
}

static int parse(const struct service *service, const uint32_t *sqe, struct port_config *config)
{
    const uint32_t *words = sqe + TS_SQE_INLINE_WORD;
    uint32_t port = sqe[TS_SQE_OPERATION_FLAGS_WORD], family = TS_WORD_GET(words, TS_NETIF_CONFIG_FAMILY);
    if (family != TS_AF_INET && family != TS_AF_INET6) {
        return -E_AFNOSUPPORT;
    }
    if (port >= service->stack->ports) {
        return -E_INVAL;
    }
#ifdef TWINSTACK_SMALL
    if (family == TS_AF_INET6 || TS_WORD_GET(words, TS_NETIF_CONFIG_DHCP) != 0u) {
        return -E_OPNOTSUPP;
    }
#endif
    *config = service->netconf.config[port];
    int error = family == TS_AF_INET ? parse4(words, config) : parse6(words, config);
    if (error == 0 && (mac_low(config->mac) | mac_high(config->mac)) == 0u) { /* keep the present one */
        put_mac(config->mac, mmio_read(TS_MAC_ADDRESS_LOW(port)), mmio_read(TS_MAC_ADDRESS_HIGH(port)));
    }
    if (error == 0 && (mac_low(config->mac) | mac_high(config->mac)) == 0u) {
        put_mac(config->mac, 0x00535402u, port << 8); /* never set: locally administered, by port */
    }
    return error;
}

/* Start passing on the configuration that the first waiting operation asks for. */
static void start(struct service *service)
{
    tell_others(service, service->netconf.waiting.head->submitted);
    service->netconf.started = time_ms();
    service->netconf.busy = true;
}

void netconf_apply(struct service *service, struct op *op, const uint32_t *sqe)
{
    struct port_config config;
    int error = parse(service, sqe, &config);
    if (error == 0 && stack_manager() != service->stack->core) {
        error = -E_OPNOTSUPP; /* only the manager's page reaches the MAC */
    }
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    op->submitted = sqe[TS_SQE_OPERATION_FLAGS_WORD]; /* the port */
    set_config(service, op->submitted, &config);
    bool first = service->netconf.waiting.head == NULL;
    op_push(&service->netconf.waiting, op);
    if (first) {
        start(service);
    }
    netconf_pump(service);
}

static uint32_t status_bits(struct service *service, uint32_t port)
{
    const struct port_config *config = &service->netconf.config[port];
    const struct link *link = &service->stack->links[port];
    bool up = service->netconf.configured[port] && netif_is_link_up(&service->stack->netifs[port]);
    return TS_PUT(TS_NETIF_STATUS_CONFIGURED, service->netconf.configured[port] ? 1u : 0u) |
           TS_PUT(TS_NETIF_STATUS_LINK_UP, up ? 1u : 0u) |
           TS_PUT(TS_NETIF_STATUS_FULL_DUPLEX, link->full ? 1u : 0u) |
           TS_PUT(TS_NETIF_STATUS_SPEED, link->speed) | TS_PUT(TS_NETIF_STATUS_DHCP, config->dhcp ? 1u : 0u) |
           TS_PUT(TS_NETIF_STATUS_DHCP_BOUND, lease_bound(service->stack, port) ? 1u : 0u) |
           TS_PUT(TS_NETIF_STATUS_AUTOCONFIGURE, config->autoconfigure ? 1u : 0u) |
           TS_PUT(TS_NETIF_STATUS_PREFIX_LENGTH, config->prefix_length);
}

void netconf_status(struct service *service, struct op *op, uint32_t port)
{
    if (port >= service->stack->ports) {
        op_finish(service, op, -E_INVAL);
        return;
    }
    const struct port_config *config = &service->netconf.config[port];
    const struct netif *netif = &service->stack->netifs[port];
    const ip6_addr_t *router = ports_router6(netif);
    uint32_t words[TS_NETIF_STATUS_WORDS] = {0};
    words[0] = status_bits(service, port);
    words[TS_NETIF_STATUS_MAC_WORD] = mac_low(config->mac);
    words[TS_NETIF_STATUS_MAC_WORD + 1u] = mac_high(config->mac);
    words[TS_NETIF_STATUS_ADDRESS_WORD] = config->address;
    words[TS_NETIF_STATUS_GATEWAY_WORD] = config->gateway;
    words[TS_NETIF_STATUS_DNS0_WORD] = service->stack->dns[port].ip4[0];
    words[TS_NETIF_STATUS_DNS1_WORD] = service->stack->dns[port].ip4[1];
    words[TS_NETIF_STATUS_LEASE_SECONDS_WORD] = lease_seconds(service->stack, port);
    for (s8_t i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++) { /* link-local and the others follow each other */
        u8_t state = netif_ip6_addr_state(netif, i);
        if (!ip6_addr_isinvalid(state)) {
            memcpy(words + TS_NETIF_STATUS_ADDRESS6_LINK_LOCAL_WORD + 4u * (uint32_t)i,
                   netif_ip6_addr(netif, i)->addr, 16u);
        }
        words[TS_NETIF_STATUS_ADDRESS6_READY_WORD] |= ip6_addr_isvalid(state) ? 1u << i : 0u;
    }
    if (router != NULL) {
        memcpy(words + TS_NETIF_STATUS_ROUTER6_WORD, router->addr, 16u);
    }
    memcpy(words + TS_NETIF_STATUS_DNS6_WORD, service->stack->dns[port].ip6.addr, 16u);
    op_write_result(service, op, words, TS_NETIF_STATUS_BYTES);
}

/* --- Messages --- */

static void take_part(struct service *service, uint32_t sender, const uint32_t words[4])
{
    uint32_t part = words[0] >> PART_SHIFT, port = words[0] >> 8 & 0xFFu, number = words[0] >> 16 & 0xFFu;
    uint32_t header = HEADER(sender, port, number);
    if (part == 0u) {
        service->netconf.incoming_parts = 0;
        service->netconf.incoming_header = header;
    }
    if (part >= PARTS || part != service->netconf.incoming_parts ||
        service->netconf.incoming_header != header) {
        service->netconf.incoming_parts = PARTS; /* one was lost: wait for the repetition */
        return;
    }
    memcpy(service->netconf.incoming + PART_WORDS * part, words + 1, 4u * PART_WORDS);
    if (++service->netconf.incoming_parts == PARTS) {
        struct port_config config = {0};
        uint32_t present[NETCONF_WORDS], answer[4] = {HEADER(KIND_ACK, port, number), 0, 0, 0};
        message_send(&service->stack->message, sender, answer); /* if it is lost, all comes once more */
        pack(present, &service->netconf.config[port]);
        service->netconf.number[port] = (uint8_t)number;
        if (!service->netconf.configured[port] ||
            memcmp(present, service->netconf.incoming, sizeof(present)) != 0) { /* no repetition */
            unpack(service->netconf.incoming, &config);
            set_config(service, port, &config); /* before this core looks at anything else */
        }
    }
}

int netconf_message(void *context, uint32_t sender, const uint32_t words[4])
{
    struct service *service = context;
    uint32_t kind = words[0] & 0xFFu, port = words[0] >> 8 & 0xFFu, number = words[0] >> 16 & 0xFFu;
    if (sender >= service->stack->cores || port >= service->stack->ports) {
        return -E_INVAL;
    }
    if (kind == KIND_PART) {
        take_part(service, sender, words);
    } else if (kind == KIND_ACK && number == service->netconf.number[port]) {
        service->netconf.dirty[sender] &= (uint8_t) ~(1u << port);
    } else if (kind == KIND_HELLO) {
        service->netconf.greeted |= 1u << sender;
        link_greeted(service->stack, sender);
        for (uint32_t i = 0; i < service->stack->ports; i++) {
            if (service->netconf.configured[i]) {
                mark(service, 1u << sender, i);
            }
        }
    }
    return 0;
}

static void pass_on(struct service *service, uint32_t core, uint32_t port)
{
    struct message *message = &service->stack->message;
    uint32_t words[NETCONF_WORDS];
    if (message->count + PARTS > MESSAGE_QUEUE) {
        return; /* all parts or none; tried again by the next pump */
    }
    pack(words, &service->netconf.config[port]);
    for (uint32_t part = 0; part < PARTS; part++) {
        uint32_t one[4] = {HEADER(KIND_PART, port, service->netconf.number[port]) | part << PART_SHIFT};
        memcpy(one + 1, words + PART_WORDS * part, 4u * PART_WORDS);
        message_send(message, core, one);
    }
    service->netconf.sent[core] |= (uint8_t)(1u << port);
    service->netconf.sent_at[core] = time_ms();
}

void netconf_pump(struct service *service)
{
    uint32_t unacknowledged = 0;
    if (!service->netconf.busy) {
        return;
    }
    uint32_t alive = others_alive(service);
    for (uint32_t core = 0; core < service->stack->cores; core++) {
        if ((alive >> core & 1u) == 0u) {
            service->netconf.dirty[core] = 0u; /* it will ask when it has booted */
        }
        if (time_ms() - service->netconf.sent_at[core] >= RETRY_MS) {
            service->netconf.sent[core] = 0u;
        }
        for (uint32_t port = 0; port < service->stack->ports && service->netconf.dirty[core] != 0u; port++) {
            uint32_t bit = 1u << port;
            if ((service->netconf.dirty[core] & bit) != 0u && (service->netconf.sent[core] & bit) == 0u) {
                pass_on(service, core, port);
            }
        }
        unacknowledged |= service->netconf.dirty[core];
    }
    struct op *op = service->netconf.waiting.head;
    if (op != NULL) {
        bool late = time_ms() - service->netconf.started >= ACK_TIMEOUT_MS;
        bool acknowledged = (unacknowledged >> op->submitted & 1u) == 0u;
        if (acknowledged || late) {
            op_remove(&service->netconf.waiting, op);
            op_finish(service, op, acknowledged ? 0 : -E_TIMEDOUT);
            if (service->netconf.waiting.head != NULL) {
                start(service); /* the next pump sends it */
            }
        }
    }
    service->netconf.busy = unacknowledged != 0u || service->netconf.waiting.head != NULL;
}
