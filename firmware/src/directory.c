/* Port directory: one word for each local port of an outgoing connection or a UDP socket, in the memory that all cores
 * share.
 *
 * {port, core, epoch, kind}: a single store commits. Guarded by hardware lock LOCK_DIRECTORY. */
#include "stack.h"

#define ENTRY(port, core, epoch, kind)                                                                       \
    ((uint32_t)(port) | (uint32_t)(core) << 16 | (uint32_t)(epoch) << 20 | (uint32_t)(kind) << 28)
#define ENTRY_PORT(entry) ((entry)&0xFFFFu)
#define ENTRY_CORE(entry) ((entry) >> 16 & 0xFu)
#define ENTRY_KIND(entry) ((entry) >> 28)

static volatile uint32_t *words(void)
{
    return uncached(TS_SHARED_BASE);
}

int directory_init(struct stack *stack)
{
    int error = lock_take(&stack->lock, LOCK_DIRECTORY);
    if (error != 0) {
        return error;
    }
    for (uint32_t i = 0; i < DIRECTORY_ENTRIES; i++) {
        if (words()[i] != 0u && ENTRY_CORE(words()[i]) == stack->core) {
            words()[i] = 0u;
        }
    }
    lock_release(&stack->lock, LOCK_DIRECTORY);
    return 0;
}

/* Whether an entry shuts out another for the same port. A socket on several cores has one of each. */
static bool excludes(uint32_t entry, uint32_t core, enum directory_kind kind)
{
    if ((ENTRY_KIND(entry) == DIRECTORY_TCP) != (kind == DIRECTORY_TCP)) {
        return false;
    }
    return kind != DIRECTORY_SPREAD || ENTRY_KIND(entry) != DIRECTORY_SPREAD || ENTRY_CORE(entry) == core;
}

int directory_take(struct stack *stack, enum directory_kind kind, uint16_t port)
{
    int error = lock_take(&stack->lock, LOCK_DIRECTORY);
    if (error != 0) {
        return error;
    }
    uint32_t slot = DIRECTORY_ENTRIES;
    error = -E_ADDRNOTAVAIL;
    for (uint32_t i = 0; i < DIRECTORY_ENTRIES; i++) {
        uint32_t entry = words()[i];
        if (entry == 0u) {
            slot = slot == DIRECTORY_ENTRIES ? i : slot;
        } else if (ENTRY_PORT(entry) == port && excludes(entry, stack->core, kind)) {
            slot = DIRECTORY_ENTRIES;
            error = -E_ADDRINUSE;
            break;
        }
    }
    RACE_POINT();
    if (slot != DIRECTORY_ENTRIES) {
        words()[slot] = ENTRY(port, stack->core, stack->epoch, kind);
        error = 0;
    }
    lock_release(&stack->lock, LOCK_DIRECTORY);
    return error;
}

/* Only the owner clears its entry, so a single store needs no lock. */
void directory_release(struct stack *stack, enum directory_kind kind, uint16_t port)
{
    uint32_t mine = ENTRY(port, stack->core, stack->epoch, kind);
    for (uint32_t i = 0; i < DIRECTORY_ENTRIES; i++) {
        if (words()[i] == mine) {
            words()[i] = 0u;
        }
    }
}

/* Whether a core has a UDP socket with the port. An entry that comes or goes meanwhile may be missed. */
bool directory_has_udp(uint16_t port)
{
    for (uint32_t i = 0; i < DIRECTORY_ENTRIES; i++) {
        uint32_t entry = words()[i];
        if (entry != 0u && ENTRY_PORT(entry) == port && ENTRY_KIND(entry) != DIRECTORY_TCP) {
            return true;
        }
    }
    return false;
}
