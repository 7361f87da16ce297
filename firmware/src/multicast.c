/* Multicast hash filters of the MACs. Each core counts for itself, for each bit, how many of its groups want it, and
 * keeps the mask of its bits in the memory that all cores share; whoever changes its mask writes the union of all cores'
 * masks to the MAC, under hardware lock LOCK_MULTICAST. What a core in reset has left stays until it boots again. */
#include "stack.h"

#define POLYNOMIAL 0xEDB88320u /* IEEE 802.3 3.2.9, bit-reversed */
#define MASK_WORDS 2u
#define BITS       (32u * MASK_WORDS)

static volatile uint32_t *mask_of(uint32_t core, uint32_t port)
{
    return (volatile uint32_t *)uncached(SHARED_MULTICAST) + (core * TS_CONFIG_PORTS + port) * MASK_WORDS;
}

/* mac.multicast: the upper 6 bits of the CRC-32, before its inversion. */
static uint32_t bit_of(const uint8_t mac[6])
{
    uint32_t crc = 0xFFFFFFFFu;
    for (uint32_t i = 0; i < 48u; i++) {
        uint32_t bit = (uint32_t)mac[i / 8u] >> i % 8u & 1u;
        crc = crc >> 1 ^ (((crc ^ bit) & 1u) != 0u ? POLYNOMIAL : 0u);
    }
    return crc >> 26;
}

/* Without the lock it is done by a later tick. */
static void publish(struct stack *stack, uint32_t port)
{
    stack->multicast.dirty |= (uint8_t)(1u << port);
    if (lock_take(&stack->lock, LOCK_MULTICAST) != 0) {
        return;
    }
    for (uint32_t word = 0; word < MASK_WORDS; word++) {
        uint32_t mask = 0, all = 0;
        for (uint32_t bit = 0; bit < 32u; bit++) {
            mask |= stack->multicast.counts[port][32u * word + bit] != 0u ? 1u << bit : 0u;
        }
        mask_of(stack->core, port)[word] = mask;
        RACE_POINT();
        for (uint32_t core = 0; core < stack->cores; core++) {
            all |= mask_of(core, port)[word];
        }
        mmio_write(TS_MAC_MULTICAST(port, word), all);
    }
    lock_release(&stack->lock, LOCK_MULTICAST);
    stack->multicast.dirty &= (uint8_t) ~(1u << port);
}

void multicast_init(struct stack *stack)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        publish(stack, port);
    }
}

void multicast_tick(struct stack *stack)
{
    for (uint32_t port = 0; port < stack->ports && stack->multicast.dirty != 0u; port++) {
        if ((stack->multicast.dirty >> port & 1u) != 0u) {
            publish(stack, port);
        }
    }
}

int multicast_filter(struct stack *stack, uint32_t port, const uint8_t mac[6], bool join)
{
    if (port >= stack->ports || (mac[0] & 1u) == 0u) {
        return -E_INVAL;
    }
    uint8_t *count = &stack->multicast.counts[port][bit_of(mac)];
    if (*count == (join ? UINT8_MAX : 0u)) {
        return -E_INVAL;
    }
    *count = (uint8_t)(join ? *count + 1u : *count - 1u);
    if (*count == (join ? 1u : 0u)) {
        publish(stack, port);
    }
    return 0;
}
