/* DISPATCH_CONFIG: the block comes to a TX buffer by DMA, is checked whole, and set part by part. */
#include "service.h"
#include <string.h>

#define WORD(name)  TS_DISPATCH_CONFIG_##name##_WORD
#define KEY_WORDS   10u
#define RULE_WORDS  TS_RULE_ENTRY_WORDS
#define RULE_COUNT  ((TS_DISPATCH_CONFIG_WORDS - WORD(RULES)) / RULE_WORDS)
#define MATCHES     5u         /* bits, the lowest of a rule's last used word */
#define MATCH_SHIFT 4u         /* where the register has them */
#define OK          UINT32_MAX /* instead of the offset of what is wrong */

#define HAS_ALL                                                                                              \
    (TS_DISPATCH_CONFIG_HAS_KEY_MASK | TS_DISPATCH_CONFIG_HAS_HASH_TYPES_MASK |                              \
     TS_DISPATCH_CONFIG_HAS_INDIRECTION_MASK | TS_DISPATCH_CONFIG_HAS_RULES_MASK)

static struct service *instance; /* an operation does not know it */

static volatile uint32_t *words_of(const struct op *op)
{
    return uncached(bank_address(op->done));
}

/* Byte offset of the first word from `first` on that is not zero, or OK. */
static uint32_t check_zero(const volatile uint32_t *words, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++) {
        if (words[i] != 0u) {
            return 4u * i;
        }
    }
    return OK;
}

/* 0, 1 or 2: the word of the entry that is wrong; or OK. */
static uint32_t check_rule(const struct stack *stack, const volatile uint32_t *entry)
{
    uint32_t last = entry[TS_RULE_ENTRY_ACTION_WORD];
    uint32_t action = TS_GET(last, TS_RULE_ENTRY_ACTION), core = TS_GET(last, TS_RULE_ENTRY_CORE);
    uint32_t kind = 0u, ports = 0u;
    kind |= TS_GET(last, TS_RULE_ENTRY_MATCH_ETHERTYPE) != 0u ? TS_RULE_ENTRY_ETHERTYPE_MASK : 0u;
    kind |= TS_GET(last, TS_RULE_ENTRY_MATCH_PROTOCOL) != 0u ? TS_RULE_ENTRY_PROTOCOL_MASK : 0u;
    kind |= TS_GET(last, TS_RULE_ENTRY_MATCH_NETWORK_PORT) != 0u ? TS_RULE_ENTRY_NETWORK_PORT_MASK : 0u;
    ports |= TS_GET(last, TS_RULE_ENTRY_MATCH_SOURCE_PORT) != 0u ? TS_RULE_ENTRY_SOURCE_PORT_MASK : 0u;
    ports |=
        TS_GET(last, TS_RULE_ENTRY_MATCH_DESTINATION_PORT) != 0u ? TS_RULE_ENTRY_DESTINATION_PORT_MASK : 0u;
    uint32_t known = ((1u << MATCHES) - 1u) | TS_RULE_ENTRY_ACTION_MASK | TS_RULE_ENTRY_CORE_MASK;
    bool names_core = action == TS_RULE_ACTION_CORE;
    if ((last & ~known) != 0u || action > TS_RULE_ACTION_DROP ||
        (action == TS_RULE_ACTION_OFF && last != 0u) || (names_core ? core >= stack->cores : core != 0u)) {
        return TS_RULE_ENTRY_ACTION_WORD;
    }
    return (entry[0] & ~kind) != 0u ? 0u : (entry[1] & ~ports) != 0u ? 1u : entry[3] != 0u ? 3u : OK;
}

/* Byte offset of what is wrong, or OK. */
static uint32_t check(const struct stack *stack, const volatile uint32_t *words)
{
    uint32_t has = words[0], wrong = OK;
    if (has == 0u || (has & ~HAS_ALL) != 0u) {
        return 0u;
    }
    if (words[WORD(REFUSED_AT)] != 0u) {
        return 4u * WORD(REFUSED_AT);
    }
    uint32_t key = check_zero(words, WORD(KEY), KEY_WORDS);
    if ((has & TS_DISPATCH_CONFIG_HAS_KEY_MASK) == 0u) {
        wrong = key;
    } else if (key == OK && stack->cores > 1u) {
        wrong = 4u * WORD(KEY);
    }
    uint32_t types = TS_DISPATCH_CONFIG_TCP_PORTS_MASK | TS_DISPATCH_CONFIG_UDP_PORTS_MASK;
    types = (has & TS_DISPATCH_CONFIG_HAS_HASH_TYPES_MASK) != 0u ? types : 0u;
    if (wrong == OK && (words[WORD(TCP_PORTS)] & ~types) != 0u) {
        wrong = 4u * WORD(TCP_PORTS);
    }
    if (wrong == OK) {
        wrong = check_zero(words, WORD(TCP_PORTS) + 1u, WORD(INDIRECTION) - WORD(TCP_PORTS) - 1u);
    }
    uint32_t limit = (has & TS_DISPATCH_CONFIG_HAS_INDIRECTION_MASK) != 0u ? stack->cores : 1u;
    const volatile uint8_t *bytes = (const volatile uint8_t *)(words + WORD(INDIRECTION));
    for (uint32_t i = 0; i < INDIRECTION_ENTRIES && wrong == OK; i++) {
        wrong = bytes[i] >= limit ? 4u * WORD(INDIRECTION) + i : OK;
    }
    if (wrong == OK && (has & TS_DISPATCH_CONFIG_HAS_RULES_MASK) == 0u) {
        wrong = check_zero(words, WORD(RULES), RULE_COUNT * RULE_WORDS);
    }
    for (uint32_t i = 0; i < RULE_COUNT && wrong == OK; i++) {
        uint32_t at = WORD(RULES) + RULE_WORDS * i;
        uint32_t word = i < TS_CONFIG_RULES                       ? check_rule(stack, words + at)
                        : check_zero(words, at, RULE_WORDS) != OK ? TS_RULE_ENTRY_ACTION_WORD
                                                                  : OK;
        wrong = word == OK ? OK : 4u * (at + word);
    }
    return wrong;
}

static void set(const struct stack *stack, const volatile uint32_t *words)
{
    uint32_t has = words[0];
    if ((has & TS_DISPATCH_CONFIG_HAS_HASH_TYPES_MASK) != 0u) {
        mmio_write(TS_DISPATCH_HASH_CONFIG, words[WORD(TCP_PORTS)]); /* both have bits 0 and 1 */
    }
    for (uint32_t i = 0; i < KEY_WORDS && (has & TS_DISPATCH_CONFIG_HAS_KEY_MASK) != 0u; i++) {
        mmio_write(TS_DISPATCH_KEY(i), words[WORD(KEY) + i]);
    }
    const volatile uint8_t *bytes = (const volatile uint8_t *)(words + WORD(INDIRECTION));
    for (uint32_t i = 0; i < INDIRECTION_ENTRIES && (has & TS_DISPATCH_CONFIG_HAS_INDIRECTION_MASK) != 0u;
         i++) {
        rules_set_entry(i, bytes[i]);
    }
    for (uint32_t i = 0; i < TS_CONFIG_RULES && (has & TS_DISPATCH_CONFIG_HAS_RULES_MASK) != 0u; i++) {
        const volatile uint32_t *entry = words + WORD(RULES) + RULE_WORDS * i;
        uint32_t last = entry[TS_RULE_ENTRY_ACTION_WORD];
        struct rule rule = {
            .kind = entry[TS_RULE_ENTRY_ETHERTYPE_WORD],
            .ports = entry[TS_RULE_ENTRY_SOURCE_PORT_WORD],
            .match = (last & ((1u << MATCHES) - 1u)) << MATCH_SHIFT |
                     TS_PUT(TS_DISPATCH_RULE_ACTION, TS_GET(last, TS_RULE_ENTRY_ACTION)) |
                     TS_PUT(TS_DISPATCH_RULE_CORE, TS_GET(last, TS_RULE_ENTRY_CORE)),
        };
        rules_set(stack, i, &rule);
    }
}

static void get(volatile uint32_t *words)
{
    volatile uint8_t *bytes = (volatile uint8_t *)(words + WORD(INDIRECTION));
    for (uint32_t i = 0; i < TS_DISPATCH_CONFIG_WORDS; i++) {
        words[i] = 0u;
    }
    words[0] = HAS_ALL;
    for (uint32_t i = 0; i < KEY_WORDS; i++) {
        words[WORD(KEY) + i] = mmio_read(TS_DISPATCH_KEY(i));
    }
    words[WORD(TCP_PORTS)] = mmio_read(TS_DISPATCH_HASH_CONFIG);
    for (uint32_t i = 0; i < INDIRECTION_ENTRIES; i++) {
        bytes[i] = (uint8_t)rules_entry(i);
    }
    for (uint32_t i = 0; i < LWIP_MIN(TS_CONFIG_RULES, RULE_COUNT); i++) {
        struct rule rule;
        rules_get(i, &rule);
        volatile uint32_t *entry = words + WORD(RULES) + RULE_WORDS * i;
        entry[TS_RULE_ENTRY_ETHERTYPE_WORD] = rule.kind;
        entry[TS_RULE_ENTRY_SOURCE_PORT_WORD] = rule.ports;
        entry[TS_RULE_ENTRY_ACTION_WORD] =
            (rule.match >> MATCH_SHIFT & ((1u << MATCHES) - 1u)) |
            TS_PUT(TS_RULE_ENTRY_ACTION, TS_GET(rule.match, TS_DISPATCH_RULE_ACTION)) |
            TS_PUT(TS_RULE_ENTRY_CORE, TS_GET(rule.match, TS_DISPATCH_RULE_CORE));
    }
}

static void finish(struct op *op, int32_t result)
{
    bank_give(&instance->stack->bank, op->done);
    op_finish(instance, op, result);
}

static void on_written(void *context, void *item, uint32_t length, int error)
{
    struct op *op = item;
    (void)length;
    op->transfers--;
    finish(op, error != 0 ? error : (int32_t)(uintptr_t)context);
}

/* Write words of the buffer to the host, and finish with `result`. */
static void write_back(struct op *op, uint32_t first, uint32_t count, int32_t result)
{
    memory_barrier();
    op->transfers++;
    if (dma_submit(&instance->stack->dma_out, bank_address(op->done) + 4u * first, op->buffer + 4u * first,
                   (uint16_t)(4u * count), op->host, on_written, (void *)(intptr_t)result, op) != 0) {
        op->transfers--;
        finish(op, -E_NOBUFS);
    }
}

static void on_fetched(void *context, void *item, uint32_t length, int error)
{
    struct op *op = item;
    (void)context;
    (void)length;
    op->transfers--;
    if (error != 0) {
        finish(op, error);
        return;
    }
    uint32_t wrong = check(instance->stack, words_of(op));
    if (wrong != OK) {
        words_of(op)[WORD(REFUSED_AT)] = wrong;
        write_back(op, WORD(REFUSED_AT), 1u, -E_INVAL);
        return;
    }
    set(instance->stack, words_of(op));
    finish(op, TS_DISPATCH_CONFIG_BYTES);
}

void dispatch_config(struct service *service, struct op *op, uint32_t flags)
{
    instance = service;
    if (op->length < TS_DISPATCH_CONFIG_BYTES || flags > TS_DISPATCH_FLAG_READ) {
        op_finish(service, op, -E_INVAL);
        return;
    }
    int buffer = bank_take(&service->stack->bank);
    if (buffer < 0) {
        op_finish(service, op, -E_NOBUFS);
        return;
    }
    op->done = (uint32_t)buffer;
    if (flags == TS_DISPATCH_FLAG_READ) {
        get(words_of(op));
        write_back(op, 0u, TS_DISPATCH_CONFIG_WORDS, TS_DISPATCH_CONFIG_BYTES);
        return;
    }
    op->transfers++;
    if (dma_submit(&service->stack->dma_in, bank_address(op->done), op->buffer, TS_DISPATCH_CONFIG_BYTES,
                   op->host, on_fetched, service, op) != 0) {
        op->transfers--;
        finish(op, -E_NOBUFS);
    }
}
