/* Address configuration: the manager applies it and passes it to the other cores in two messages each.
 *
 * word 0 of a message: kind, port, prefix length. FIRST {address, gateway, MAC bytes 0..3}, SECOND {MAC
 * bytes 4..5}, ACK {}, HELLO {} from a core that has booted and asks for what is configured. */
#include "service.h"
#include <string.h>

#define ACK_TIMEOUT_MS 200u /* a living core answers within a few event loops */

enum { KIND_FIRST = 1, KIND_SECOND = 2, KIND_ACK = 3, KIND_HELLO = 4 };

#define HEADER(kind, port, prefix) ((uint32_t)(kind) | (uint32_t)(port) << 8 | (uint32_t)(prefix) << 16)

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

int netconf_init(struct service *service)
{
    uint32_t words[4] = {HEADER(KIND_HELLO, 0, 0), 0, 0, 0};
    uint32_t manager = stack_manager();
    return manager == service->stack->core ? 0 : message_send(&service->stack->message, manager, words);
}

static void set_config(struct service *service, uint32_t port, const struct port_config *config)
{
    service->netconf.config[port] = *config;
    service->netconf.configured[port] = true;
    ports_configure(service->stack, port, config);
}

static int parse(const struct service *service, const uint32_t *sqe, struct port_config *config)
{
    const uint32_t *words = sqe + TS_SQE_INLINE_WORD;
    uint32_t port = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    uint32_t known = TS_NETIF_CONFIG_FAMILY_MASK | TS_NETIF_CONFIG_PREFIX_LENGTH_MASK;
    uint32_t low = words[TS_NETIF_CONFIG_MAC_WORD], high = words[TS_NETIF_CONFIG_MAC_WORD + 1u];
    uint32_t prefix = TS_WORD_GET(words, TS_NETIF_CONFIG_PREFIX_LENGTH);
    if (TS_WORD_GET(words, TS_NETIF_CONFIG_FAMILY) != TS_AF_INET) {
        return -E_AFNOSUPPORT;
    }
    if (TS_WORD_GET(words, TS_NETIF_CONFIG_DHCP) != 0u) {
        return -E_OPNOTSUPP;
    }
    if (port >= service->stack->ports || prefix > 32u || (words[0] & ~known) != 0u || high >> 16 != 0u ||
        (words[5] | words[6] | words[7]) != 0u || (low & 1u) != 0u) {
        return -E_INVAL; /* a group address is no station's */
    }
    config->address = words[TS_NETIF_CONFIG_ADDRESS_WORD];
    config->gateway = words[TS_NETIF_CONFIG_GATEWAY_WORD];
    config->prefix_length = (uint8_t)prefix;
    if ((low | high) == 0u) { /* keep the present one */
        low = mmio_read(TS_MAC_ADDRESS_LOW(port));
        high = mmio_read(TS_MAC_ADDRESS_HIGH(port));
    }
    if ((low | high) == 0u) { /* never set: locally administered, by port */
        low = 0x00535402u;
        high = port << 8;
    }
    put_mac(config->mac, low, high);
    return 0;
}

/* A core between its HELLO and its first frame gets the configuration too. */
static uint32_t others_alive(const struct service *service)
{
    uint32_t alive = TS_GET(mmio_read(TS_DISPATCH_STATE), TS_DISPATCH_STATE_ALIVE);
    return (alive | service->netconf.greeted) & ~(1u << service->stack->core);
}

/* Start passing on the configuration that the first waiting operation asks for. */
static void start(struct service *service)
{
    uint32_t port = service->netconf.waiting.head->submitted, alive = others_alive(service);
    for (uint32_t core = 0; core < service->stack->cores; core++) {
        if ((alive >> core & 1u) != 0u) {
            service->netconf.dirty[core] |= (uint8_t)(1u << port);
            service->netconf.sent[core] &= (uint8_t) ~(1u << port);
        }
    }
    service->netconf.started = time_ms();
}

void netconf_apply(struct service *service, struct op *op, const uint32_t *sqe)
{
    struct port_config config = {0};
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

void netconf_status(struct service *service, struct op *op, uint32_t port)
{
    if (port >= service->stack->ports) {
        op_finish(service, op, -E_INVAL);
        return;
    }
    const struct port_config *config = &service->netconf.config[port];
    const struct link *link = &service->stack->links[port];
    bool up = service->netconf.configured[port] && netif_is_link_up(&service->stack->netifs[port]);
    uint32_t words[TS_NETIF_STATUS_WORDS] = {0};
    words[0] = TS_PUT(TS_NETIF_STATUS_CONFIGURED, service->netconf.configured[port] ? 1u : 0u) |
               TS_PUT(TS_NETIF_STATUS_LINK_UP, up ? 1u : 0u) |
               TS_PUT(TS_NETIF_STATUS_FULL_DUPLEX, link->full ? 1u : 0u) |
               TS_PUT(TS_NETIF_STATUS_SPEED, link->speed) |
               TS_PUT(TS_NETIF_STATUS_PREFIX_LENGTH, config->prefix_length);
    words[TS_NETIF_STATUS_MAC_WORD] = mac_low(config->mac);
    words[TS_NETIF_STATUS_MAC_WORD + 1u] = mac_high(config->mac);
    words[TS_NETIF_STATUS_ADDRESS_WORD] = config->address;
    words[TS_NETIF_STATUS_GATEWAY_WORD] = config->gateway;
    op_write_result(service, op, words, TS_NETIF_STATUS_BYTES);
}

static void acknowledge(struct service *service, uint32_t to, uint32_t port)
{
    uint32_t words[4] = {HEADER(KIND_ACK, port, 0), 0, 0, 0};
    message_send(&service->stack->message, to,
                 words); /* lost only when 8 wait: the manager goes on after a while */
}

int netconf_message(void *context, uint32_t sender, const uint32_t words[4])
{
    struct service *service = context;
    uint32_t kind = words[0] & 0xFFu, port = words[0] >> 8 & 0xFFu;
    if (sender >= service->stack->cores || port >= service->stack->ports) {
        return -E_INVAL;
    }
    if (kind == KIND_FIRST) {
        memcpy(service->netconf.incoming, words + 1, sizeof(service->netconf.incoming));
    } else if (kind == KIND_SECOND) {
        struct port_config config = {
            .address = service->netconf.incoming[0],
            .gateway = service->netconf.incoming[1],
            .prefix_length = (uint8_t)(words[0] >> 16 & 0xFFu),
        };
        put_mac(config.mac, service->netconf.incoming[2], words[1]);
        set_config(service, port, &config);
        acknowledge(service, sender, port);
    } else if (kind == KIND_ACK) {
        service->netconf.dirty[sender] &= (uint8_t) ~(1u << port);
    } else if (kind == KIND_HELLO) {
        service->netconf.greeted |= 1u << sender;
        link_greeted(service->stack, sender);
        for (uint32_t i = 0; i < service->stack->ports; i++) {
            if (service->netconf.configured[i]) {
                service->netconf.dirty[sender] |= (uint8_t)(1u << i);
                service->netconf.sent[sender] &= (uint8_t) ~(1u << i);
            }
        }
    }
    return 0;
}

static void pass_on(struct service *service, uint32_t core, uint32_t port)
{
    struct message *message = &service->stack->message;
    const struct port_config *config = &service->netconf.config[port];
    if (message->count + 2u > MESSAGE_QUEUE) {
        return; /* both halves or none; tried again by the next pump */
    }
    uint32_t first[4] = {HEADER(KIND_FIRST, port, 0), config->address, config->gateway, mac_low(config->mac)};
    uint32_t second[4] = {HEADER(KIND_SECOND, port, config->prefix_length), mac_high(config->mac), 0, 0};
    message_send(message, core, first);
    message_send(message, core, second);
    service->netconf.sent[core] |= (uint8_t)(1u << port);
}

void netconf_pump(struct service *service)
{
    uint32_t unacknowledged = 0;
    for (uint32_t core = 0; core < service->stack->cores; core++) {
        for (uint32_t port = 0; port < service->stack->ports && service->netconf.dirty[core] != 0u; port++) {
            uint32_t bit = 1u << port;
            if ((service->netconf.dirty[core] & bit) != 0u && (service->netconf.sent[core] & bit) == 0u) {
                pass_on(service, core, port);
            }
        }
        unacknowledged |= service->netconf.dirty[core];
    }
    struct op *op = service->netconf.waiting.head;
    while (op != NULL) {
        bool late = time_ms() - service->netconf.started >= ACK_TIMEOUT_MS;
        if ((unacknowledged >> op->submitted & 1u) != 0u && !late) {
            return;
        }
        bool acknowledged = (unacknowledged >> op->submitted & 1u) == 0u;
        op_remove(&service->netconf.waiting, op);
        op_finish(service, op, acknowledged ? 0 : -E_TIMEDOUT);
        op = service->netconf.waiting.head;
        if (op != NULL) {
            start(service);
            return; /* the next pump sends it */
        }
    }
}
