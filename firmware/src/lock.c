/* Lock unit: one read tries, one write releases. */
#include "drivers.h"

#define LOCK_TRIES 10000u /* a holder is done within a few hundred cycles */

int lock_take(struct lock *lock, uint32_t index)
{
    for (uint32_t attempt = 0; attempt < LOCK_TRIES; attempt++) {
        uint32_t value = mmio_read(TS_LOCK_LOCK(index));
        if (TS_GET(value, TS_LOCK_LOCK_TAKEN_NOW) != 0u) {
            lock->taken++;
            return 0;
        }
    }
    return -E_BUSY;
}

void lock_release(struct lock *lock, uint32_t index)
{
    (void)lock;
    memory_barrier();
    mmio_write(TS_LOCK_LOCK(index), 1u);
}
