/* Port directory: one word for each local port of an outgoing connection, in the memory that all cores share.
 *
 * {port, core, epoch, state}: a single store commits. Guarded by hardware lock LOCK_DIRECTORY. */
#include "stack.h"

#define STATE_TAKEN 1u
#define ENTRY(port, core, epoch)                                                                             \
    ((uint32_t)(port) | (uint32_t)(core) << 16 | (uint32_t)(epoch) << 20 | STATE_TAKEN << 28)
#define ENTRY_PORT(entry) ((entry)&0xFFFFu)
#define ENTRY_CORE(entry) ((entry) >> 16 & 0xFu)

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
    for (uint32_t i = 0; i < TS_DIRECTORY_WORDS; i++) {
        if (words()[i] != 0u && ENTRY_CORE(words()[i]) == stack->core) {
            words()[i] = 0u;
        }
    }
    lock_release(&stack->lock, LOCK_DIRECTORY);
    return 0;
}

int directory_take(struct stack *stack, uint16_t port)
{
    int error = lock_take(&stack->lock, LOCK_DIRECTORY);
    if (error != 0) {
        return error;
    }
    uint32_t slot = TS_DIRECTORY_WORDS;
    error = -E_ADDRNOTAVAIL;
    for (uint32_t i = 0; i < TS_DIRECTORY_WORDS; i++) {
        uint32_t entry = words()[i];
        if (entry == 0u) {
            slot = slot == TS_DIRECTORY_WORDS ? i : slot;
        } else if (ENTRY_PORT(entry) == port) {
            slot = TS_DIRECTORY_WORDS;
            error = -E_ADDRINUSE;
            break;
        }
    }
    RACE_POINT();
    if (slot != TS_DIRECTORY_WORDS) {
        words()[slot] = ENTRY(port, stack->core, stack->epoch);
        error = 0;
    }
    lock_release(&stack->lock, LOCK_DIRECTORY);
    return error;
}

/* Only the owner clears its entry, so a single store needs no lock. */
void directory_release(struct stack *stack, uint16_t port)
{
    uint32_t mine = ENTRY(port, stack->core, stack->epoch);
    for (uint32_t i = 0; i < TS_DIRECTORY_WORDS; i++) {
        if (words()[i] == mine) {
            words()[i] = 0u;
        }
    }
}
