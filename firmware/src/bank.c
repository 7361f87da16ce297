/* TX bank: a free list of buffers, and small pieces of the last buffer for results. */
#include "drivers.h"

#define SCRATCH_BUFFER (TX_BUFFERS - 1u)

void bank_init(struct bank *bank, struct tx *tx)
{
    bank->tx = tx;
    bank->free_count = 0;
    for (uint32_t i = 0; i < SCRATCH_BUFFER; i++) {
        bank->free[bank->free_count++] = (uint8_t)i;
    }
    bank->scratch_free = (1u << SCRATCH_PIECES) - 1u;
}

uint32_t bank_address(uint32_t index)
{
    return TS_TX_BANK_BASE + index * TS_TX_BUFFER_BYTES;
}

int bank_take(struct bank *bank)
{
    bank_reap(bank);
    return bank->free_count == 0u ? -E_NOBUFS : bank->free[--bank->free_count];
}

/* A retransmission may still be queued when its data is acknowledged or abandoned. The buffer must not get
 * other data (perhaps of another connection) before the TX engine has passed, so it waits behind the commands
 * queued now. */
void bank_give(struct bank *bank, uint32_t index)
{
    uint32_t slot = (bank->limbo_head + bank->limbo_count++) % TX_BUFFERS;
    bank->limbo[slot].buffer = (uint8_t)index;
    bank->limbo[slot].stamp = bank->tx->producer;
    bank_reap(bank);
}

void bank_reap(struct bank *bank)
{
    while (bank->limbo_count != 0u &&
           (int16_t)(bank->tx->consumer - bank->limbo[bank->limbo_head].stamp) >= 0) {
        bank->free[bank->free_count++] = bank->limbo[bank->limbo_head].buffer;
        bank->limbo_head = (bank->limbo_head + 1u) % TX_BUFFERS;
        bank->limbo_count--;
    }
}

uint32_t bank_scratch_take(struct bank *bank)
{
    for (uint32_t piece = 0; piece < SCRATCH_PIECES; piece++) {
        if ((bank->scratch_free >> piece & 1u) != 0u) {
            bank->scratch_free &= ~(1u << piece);
            return bank_address(SCRATCH_BUFFER) + piece * SCRATCH_BYTES;
        }
    }
    return 0u;
}

void bank_scratch_give(struct bank *bank, uint32_t address)
{
    bank->scratch_free |= 1u << (address - bank_address(SCRATCH_BUFFER)) / SCRATCH_BYTES;
}
