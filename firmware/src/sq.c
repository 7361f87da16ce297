/* Delivery ring of submission queue entries. */
#include "drivers.h"

int sq_init(struct sq *sq, uint8_t epoch)
{
    sq->epoch = epoch;
    for (uint32_t i = 0; i < SQ_RING_ENTRIES; i++) {
        uncached_words(hw_memory.sq_ring[i])[TS_SQ_DELIVERY_OWNER_WORD] = 0u;
    }
    mmio_write(TS_SQ_RING, address_of(hw_memory.sq_ring) - TS_DATA_BASE);
    mmio_write(TS_SQ_CONSUMER, 0u);
    mmio_write(TS_SQ_CONTROL,
               TS_PUT(TS_SQ_CONTROL_RING_LOG2, SQ_RING_LOG2) | TS_PUT(TS_SQ_CONTROL_ENABLE, 1u));
    return 0;
}

const uint32_t *sq_peek(struct sq *sq, uint32_t copy[TS_SQ_DELIVERY_WORDS])
{
    for (uint32_t tries = 0; tries < SQ_RING_ENTRIES; tries++) {
        volatile uint32_t *entry = uncached_words(hw_memory.sq_ring[sq->consumer % SQ_RING_ENTRIES]);
        if (TS_WORD_GET(entry, TS_SQ_DELIVERY_OWNER) == 0u) {
            return NULL;
        }
        memory_barrier();
        for (uint32_t i = 0; i < TS_SQ_DELIVERY_WORDS; i++) {
            copy[i] = entry[i];
        }
        if (TS_WORD_GET(copy, TS_SQ_DELIVERY_EPOCH) == sq->epoch) {
            return copy;
        }
        sq->old_epoch++; /* meant for this core before its reset; the host was told */
        sq_consume(sq);
    }
    return NULL;
}

void sq_consume(struct sq *sq)
{
    uncached_words(hw_memory.sq_ring[sq->consumer % SQ_RING_ENTRIES])[TS_SQ_DELIVERY_OWNER_WORD] = 0u;
    memory_barrier();
    sq->consumer++;
    mmio_write(TS_SQ_CONSUMER, sq->consumer);
}
