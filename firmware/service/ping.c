/* PING: an echo request of this core; the answer hashes by address and may come to another, which passes on what it says.
 * The payload is a pattern by offset that the core which gets it checks, so nothing is copied. */
#include "service.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip.h"
#include "lwip/prot/icmp.h"
#include "lwip/prot/icmp6.h"
#include <string.h>

#define LONGEST         1024u
#define TIMEOUT_MS      1000u
#define TIMEOUT_MS_MOST 60000u
#define PING_TTL        64u
#define CORE_MASK       7u     /* of the identifier: who asked */
#define PRECISE_MS      10000u /* until then the cycle counter's low word tells the time */

enum { MESSAGE_ECHO = 33 };

static err_t transmit(uint32_t word, uint32_t length, const ip_addr_t *local, const ip_addr_t *remote,
                      struct netif *netif)
{
    bool ip6 = IP_IS_V6(remote);
    struct pbuf *p = pbuf_alloc(PBUF_IP, (u16_t)(ICMP_BYTES + length), PBUF_RAM);
    if (p == NULL) {
        return ERR_MEM;
    }
    uint8_t *message = p->payload;
    memset(message, 0, ICMP_BYTES);
    message[0] = ip6 ? ICMP6_TYPE_EREQ : ICMP_ECHO;
    memcpy(message + 4, &word, sizeof(word));
    for (uint32_t i = 0; i < length; i++) {
        message[ICMP_BYTES + i] = (uint8_t)i;
    }
    if (!ip6) { /* hardware does that of ICMPv6 */
        uint16_t sum = inet_chksum(message, (u16_t)(ICMP_BYTES + length));
        memcpy(message + 2, &sum, sizeof(sum));
    }
    err_t error = ip_output_if(p, local, remote, PING_TTL, 0u, ip6 ? IP6_NEXTH_ICMP6 : IP_PROTO_ICMP, netif);
    pbuf_free(p);
    return error;
}

void ping_start(struct service *service, struct op *op, const uint32_t *sqe)
{
    ip_addr_t remote, local, next_hop;
    uint16_t port;
    struct ping *ping = NULL;
    uint32_t timeout = sqe[TS_SQE_OPERATION_FLAGS_WORD], length = op->length;
    int32_t error = address_parse(sqe + TS_SQE_INLINE_WORD, &remote, &port);
    for (uint32_t i = 0; i < PINGS; i++) {
        ping = service->pings[i].op == NULL ? &service->pings[i] : ping;
    }
    if (error == 0) {
        bool bad = port != 0u || timeout > TIMEOUT_MS_MOST ||
                   sqe[TS_SQE_INLINE_WORD + TS_SOCKET_ADDRESS_EXTRA_WORD] != 0u;
        struct netif *netif = NULL;
        error = bad ? -E_INVAL : length > LONGEST ? -E_MSGSIZE : ping == NULL ? -E_NOBUFS : 0;
        if (error == 0) {
            netif = ports_route(&remote, &local, &next_hop);
            error = netif == NULL ? -E_NETUNREACH : 0;
        }
        if (error == 0) {
            *ping = (struct ping){
                .op = op,
                .word = (platform_random() & ~CORE_MASK) | service->stack->core,
                .since = time_ms(),
                .cycles = (uint32_t)time_cycles(),
                .length = (uint16_t)length,
                .timeout = (uint16_t)(timeout == 0u ? TIMEOUT_MS : timeout),
            };
            memset(op->next_hop, 0, sizeof(op->next_hop));
            memcpy(op->next_hop, address_words(&next_hop), IP_IS_V6(&next_hop) ? 16u : 4u);
            if (transmit(ping->word, length, &local, &remote, netif) == ERR_OK) {
                return;
            }
            ping->op = NULL;
            error = -E_NOBUFS;
        }
    }
    op_finish(service, op, error);
}

static void finish(struct service *service, struct ping *ping, int32_t result)
{
    struct op *op = ping->op;
    ping->op = NULL;
    op_finish(service, op, result);
}

/* An answer with this identifier and sequence number, or an error (negative). */
static void answered(struct service *service, uint32_t word, int32_t length)
{
    for (uint32_t i = 0; i < PINGS; i++) {
        struct ping *ping = &service->pings[i];
        if (ping->op == NULL || ping->word != word || (length >= 0 && length != ping->length)) {
            continue;
        }
        uint32_t ms = time_ms() - ping->since;
        uint32_t cycles = (uint32_t)time_cycles() - ping->cycles;
        uint32_t us = ms < PRECISE_MS ? cycles / (TS_CONFIG_SYNC_HZ / 1000000u) : 1000u * ms;
        finish(service, ping, length < 0 ? length : (int32_t)LWIP_MAX(us, 1u));
    }
}

void ping_echo(void *context, uint32_t word, int32_t length)
{
    struct service *service = context;
    struct stack *stack = service->stack;
    uint32_t core = word & CORE_MASK, words[4] = {MESSAGE_ECHO, word, (uint32_t)length, 0u};
    if (core == stack->core) {
        answered(service, word, length);
    } else if (core < stack->cores &&
               stack->message.count < MESSAGE_QUEUE / 2u) { /* anybody can send answers */
        message_send(&stack->message, core, words);
    }
}

bool ping_message(struct service *service, const uint32_t words[4])
{
    if ((words[0] & 0xFFu) != MESSAGE_ECHO) {
        return false;
    }
    answered(service, words[1], (int32_t)words[2]);
    return true;
}

void ping_pump(struct service *service)
{
    for (uint32_t i = 0; i < PINGS; i++) {
        struct ping *ping = &service->pings[i];
        if (ping->op != NULL && time_ms() - ping->since >= ping->timeout) {
            bool known = ports_neighbour_known(service->stack, ping->op->next_hop);
            finish(service, ping, known ? -E_TIMEDOUT : -E_HOSTUNREACH);
        }
    }
}
