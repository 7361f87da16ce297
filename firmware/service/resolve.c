/* RESOLVE: the name comes to a scratch piece by DMA, lwIP's client asks the servers. */
#include "service.h"
#include "lwip/dns.h"
#include <string.h>

#define NAME_MOST  127u /* without the final zero */
#define LABEL_MOST 63u  /* RFC 1035 2.3.4 */

static struct service *instance; /* an operation does not know it */

static void found(struct op *op, const ip_addr_t *address)
{
    uint32_t words[TS_SOCKET_ADDRESS_WORDS];
    address_write(words, address, 0u);
    op->buffer = op->submitted;
    op->length = TS_SOCKET_ADDRESS_BYTES;
    op_write_result(instance, op, words, TS_SOCKET_ADDRESS_BYTES);
}

/* lwIP does not say why: without an answer it gives up in its timer, otherwise with the answer. */
static void on_found(const char *name, const ip_addr_t *address, void *context)
{
    struct resolve *resolve = context;
    struct op *op = resolve->op;
    (void)name;
    resolve->used = false;
    resolve->op = NULL;
    if (op == NULL) {
        return; /* cancelled */
    }
    if (address != NULL) {
        found(op, address);
    } else {
        op_finish(instance, op, instance->stack->in_timers ? -E_TIMEDOUT : -E_NOENT);
    }
}

/* Labels of the right length, no empty one but the last, which goes. */
static bool check_name(char *name, uint32_t length)
{
    uint32_t label = 0;
    for (uint32_t i = 0; i < length; i++) {
        if (name[i] <= ' ' || name[i] > '~' || (name[i] == '.' && label == 0u)) {
            return false;
        }
        label = name[i] == '.' ? 0u : label + 1u;
        if (label > LABEL_MOST && strchr(name, ':') == NULL) {
            return false;
        }
    }
    name[label == 0u ? length - 1u : length] = '\0';
    return true;
}

static int32_t ask(struct op *op, const char *name, uint32_t family)
{
    ip_addr_t address;
    if (ipaddr_aton(name, &address) != 0) {
        if (family != 0u && family != (IP_IS_V6(&address) ? TS_AF_INET6 : TS_AF_INET)) {
            return -E_NOENT;
        }
        found(op, &address);
        return 0;
    }
    struct resolve *resolve = NULL;
    for (uint32_t i = 0; i < RESOLVES; i++) {
        resolve = instance->resolves[i].used ? resolve : &instance->resolves[i];
    }
    if (resolve == NULL) {
        return -E_NOBUFS;
    }
    u8_t type = family == TS_AF_INET    ? LWIP_DNS_ADDRTYPE_IPV4
                : family == TS_AF_INET6 ? LWIP_DNS_ADDRTYPE_IPV6
                                        : LWIP_DNS_ADDRTYPE_IPV4_IPV6;
    resolve->op = op;
    resolve->used = true;
    err_t error = dns_gethostbyname_addrtype(name, &address, on_found, resolve, type);
    if (error == ERR_INPROGRESS) {
        return 0;
    }
    resolve->op = NULL;
    resolve->used = false;
    if (error == ERR_OK) {
        found(op, &address);
        return 0;
    }
    return error == ERR_VAL ? -E_NETUNREACH : error == ERR_ARG ? -E_INVAL : -E_NOBUFS;
}

static void on_name(void *context, void *item, uint32_t length, int error)
{
    struct op *op = item;
    char name[NAME_MOST + 1u];
    uint32_t scratch = op->scratch, family = (uint32_t)op->result;
    (void)context;
    memcpy(name, uncached(scratch), op->length);
    bank_scratch_give(&instance->stack->bank, scratch);
    name[op->length] = '\0';
    op->transfers--;
    (void)length;
    if (error == 0) {
        error = check_name(name, op->length) ? ask(op, name, family) : -E_INVAL;
    }
    if (error != 0) {
        op_finish(instance, op, error);
    }
}

void resolve_start(struct service *service, struct op *op, const uint32_t *sqe)
{
    uint32_t family = sqe[TS_SQE_OPERATION_FLAGS_WORD], reserved = 0u;
    instance = service;
    for (uint32_t i = TS_SQE_INLINE_WORD + 2u; i < TS_SQE_WORDS; i++) {
        reserved |= sqe[i];
    }
    int32_t error = reserved != 0u || op->length == 0u || op->length > NAME_MOST ||
                            (family != 0u && family != TS_AF_INET && family != TS_AF_INET6)
                        ? -E_INVAL
                    : sqe[TS_SQE_INLINE_WORD + 1u] != 0u ? -E_FAULT
                                                         : 0;
    uint32_t scratch = error == 0 ? bank_scratch_take(&service->stack->bank) : 0u;
    if (scratch == 0u) {
        op_finish(service, op, error != 0 ? error : -E_NOBUFS);
        return;
    }
    op->submitted = sqe[TS_SQE_INLINE_WORD];
    op->scratch = scratch;
    op->result = (int32_t)family;
    op->transfers++;
    if (dma_submit(&service->stack->dma_in, scratch, op->buffer, (uint16_t)op->length, op->host, on_name,
                   NULL, op) != 0) {
        op->transfers--;
        bank_scratch_give(&service->stack->bank, scratch);
        op_finish(service, op, -E_NOBUFS);
    }
}
