/* Dispatch rules and indirection table. The dispatcher's registers cannot be read back, so what was set lies in shared
 * memory behind the port directory, whichever core is the manager.
 *
 * Rules of the host last until all cores were reset: `lived` is nonzero for a core that lives since they were set, or
 * was started while such a core lived. A core that becomes the manager and finds none puts the firmware's own rules back.
 * Each word has one writer at a time, the core itself at its start and then the manager, so no lock is needed. */
#include "stack.h"

#define PORT_DNS         53u /* RFC 1035 4.2.1 */
#define PORT_DHCP_SERVER 67u /* RFC 2131 4.1 */
#define PORT_DHCP_CLIENT 68u
#define PROTOCOL_UDP     17u
#define MAGIC            0x54524543u
#define NIBBLES          8u /* entries of the indirection table in a word */

struct record {
    uint32_t magic;
    uint32_t lived[8];
    uint32_t indirection[INDIRECTION_ENTRIES / NIBBLES];
    struct rule rules[TS_CONFIG_RULES];
};

_Static_assert(sizeof(struct record) <= RULES_BYTES, "record of the dispatch rules");
_Static_assert(4u * TS_DIRECTORY_WORDS + RULES_BYTES <= TS_CONFIG_SHARED_BYTES, "shared region");

static volatile struct record *record(void)
{
    return uncached(SHARED_RULES);
}

void rules_init(const struct stack *stack)
{
    uint32_t others = TS_GET(mmio_read(TS_DISPATCH_STATE), TS_DISPATCH_STATE_ALIVE) & ~(1u << stack->core);
    uint32_t lived = 0;
    for (uint32_t core = 0; core < stack->cores; core++) {
        lived |= (others >> core & 1u) != 0u ? record()->lived[core] : 0u;
    }
    record()->lived[stack->core] = record()->magic == MAGIC ? lived : 0u;
}

void rules_set(const struct stack *stack, uint32_t index, const struct rule *rule)
{
    for (uint32_t core = 0; core < stack->cores; core++) {
        record()->lived[core] = 1u;
    }
    record()->rules[index].kind = rule->kind;
    record()->rules[index].ports = rule->ports;
    record()->rules[index].match = rule->match;
    mmio_write(TS_DISPATCH_RULE_KIND, rule->kind);
    mmio_write(TS_DISPATCH_RULE_PORTS, rule->ports);
    mmio_write(TS_DISPATCH_RULE, rule->match | TS_PUT(TS_DISPATCH_RULE_INDEX, index));
}

void rules_get(uint32_t index, struct rule *rule)
{
    rule->kind = record()->rules[index].kind;
    rule->ports = record()->rules[index].ports;
    rule->match = record()->rules[index].match;
}

void rules_set_entry(uint32_t index, uint32_t core)
{
    uint32_t shift = 4u * (index % NIBBLES);
    volatile uint32_t *word = &record()->indirection[index / NIBBLES];
    *word = (*word & ~(15u << shift)) | core << shift;
    mmio_write(TS_DISPATCH_INDIRECTION,
               TS_PUT(TS_DISPATCH_INDIRECTION_INDEX, index) | TS_PUT(TS_DISPATCH_INDIRECTION_CORE, core));
}

uint32_t rules_entry(uint32_t index)
{
    return record()->indirection[index / NIBBLES] >> 4u * (index % NIBBLES) & 15u;
}

/* This core has become the manager. */
void rules_take_over(const struct stack *stack)
{
    uint32_t alive = TS_GET(mmio_read(TS_DISPATCH_STATE), TS_DISPATCH_STATE_ALIVE) | 1u << stack->core;
    for (uint32_t core = 0; core < stack->cores; core++) {
        if (record()->magic == MAGIC && (alive >> core & 1u) != 0u && record()->lived[core] != 0u) {
            return;
        }
    }
    if (record()->magic != MAGIC) { /* after power-up; the table outlives resets */
        for (uint32_t i = 0; i < INDIRECTION_ENTRIES; i++) {
            rules_set_entry(i, i % stack->cores);
        }
        record()->magic = MAGIC;
    }
    static const struct rule own[] = {
        {TS_PUT(TS_DISPATCH_RULE_KIND_PROTOCOL, PROTOCOL_UDP),
         TS_PUT(TS_DISPATCH_RULE_PORTS_SOURCE_PORT, PORT_DHCP_SERVER) |
             TS_PUT(TS_DISPATCH_RULE_PORTS_DESTINATION_PORT, PORT_DHCP_CLIENT),
         TS_DISPATCH_RULE_MATCH_PROTOCOL_MASK | TS_DISPATCH_RULE_MATCH_SOURCE_PORT_MASK |
             TS_DISPATCH_RULE_MATCH_DESTINATION_PORT_MASK |
             TS_PUT(TS_DISPATCH_RULE_ACTION, TS_RULE_ACTION_MANAGER)},
        {TS_PUT(TS_DISPATCH_RULE_KIND_PROTOCOL, PROTOCOL_UDP),
         TS_PUT(TS_DISPATCH_RULE_PORTS_SOURCE_PORT, PORT_DNS),
         TS_DISPATCH_RULE_MATCH_PROTOCOL_MASK | TS_DISPATCH_RULE_MATCH_SOURCE_PORT_MASK |
             TS_PUT(TS_DISPATCH_RULE_ACTION, TS_RULE_ACTION_MANAGER)},
        {0u, 0u, 0u},
    };
    for (uint32_t i = 0; i < TS_CONFIG_RULES; i++) { /* ours come last */
        rules_set(stack, i, &own[LWIP_MIN(TS_CONFIG_RULES - 1u - i, 2u)]);
    }
}
