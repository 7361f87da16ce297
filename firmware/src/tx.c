/* Transmit queue: gather commands; a pbuf stays referenced until its command is done. */
#include "drivers.h"

#define ETHERTYPE_AT     12u
#define IPV4_PROTOCOL_AT 23u
#define IPV6_PROTOCOL_AT 20u
#define PROTOCOL_TCP     6u

int tx_init(struct tx *tx, uint8_t epoch)
{
    tx->epoch = epoch;
    for (uint32_t i = 0; i < TX_RING_ENTRIES; i++) {
        uncached_words(hw_memory.tx_ring[i])[TS_TX_COMMAND_OWNER_WORD] = 0u;
    }
    mmio_write(TS_TX_RING, address_of(hw_memory.tx_ring) - TS_DATA_BASE);
    mmio_write(TS_TX_PRODUCER, 0u);
    mmio_write(TS_TX_CONTROL,
               TS_PUT(TS_TX_CONTROL_RING_LOG2, TX_RING_LOG2) | TS_PUT(TS_TX_CONTROL_ENABLE, 1u));
    return 0;
}

/* Fill the gather list from the pieces of `p` without the pad bytes; the number of entries, or -E_INVAL. */
static int gather(volatile uint32_t (*list)[TS_GATHER_ENTRY_WORDS], const struct pbuf *p)
{
    uint32_t skip = TS_FRAME_PAD_BYTES;
    uint32_t count = 0;
    for (; p != NULL; p = p->next) {
        if (p->len <= skip) {
            skip -= p->len;
            continue;
        }
        if (count == TS_MAX_GATHER) {
            return -E_INVAL;
        }
        list[count][TS_GATHER_ENTRY_ADDRESS_WORD] = address_of(p->payload) + skip;
        list[count][TS_GATHER_ENTRY_LENGTH_WORD] = TS_PUT(TS_GATHER_ENTRY_LENGTH, p->len - skip);
        count++;
        skip = 0;
    }
    return count == 0u ? -E_INVAL : (int)count;
}

int tx_send(struct tx *tx, uint32_t port, struct pbuf *p)
{
    if ((uint16_t)(tx->producer - tx->consumer) >= TX_RING_ENTRIES) {
        tx_reap(tx);
    }
    if ((uint16_t)(tx->producer - tx->consumer) >= TX_RING_ENTRIES) {
        tx->starved = true;
        return -E_AGAIN;
    }
    uint32_t slot = tx->producer % TX_RING_ENTRIES;
    volatile uint32_t(*list)[TS_GATHER_ENTRY_WORDS] =
        (volatile uint32_t(*)[TS_GATHER_ENTRY_WORDS])uncached_words(hw_memory.tx_gather[slot]);
    int count = gather(list, p);
    if (count < 0) {
        /* More pieces than a gather list has: rare, since socket.c keeps segments whole. */
        struct pbuf *flat = pbuf_clone(PBUF_RAW, PBUF_RAM, p);
        if (flat == NULL) {
            tx->starved = true;
            return -E_AGAIN;
        }
        tx->copied++;
        p = flat;
        count = gather(list, p);
    } else {
        pbuf_ref(p);
    }
    if (count < 0) {
        pbuf_free(p);
        tx->errors++;
        return -E_INVAL;
    }
    const uint8_t *frame = (const uint8_t *)p->payload + TS_FRAME_PAD_BYTES;
    bool whole = p->len > TS_FRAME_PAD_BYTES + IPV4_PROTOCOL_AT;
    bool ipv4 = whole && frame[ETHERTYPE_AT] == 0x08u && frame[ETHERTYPE_AT + 1u] == 0x00u;
    bool ipv6 = whole && frame[ETHERTYPE_AT] == 0x86u && frame[ETHERTYPE_AT + 1u] == 0xDDu;
    tx->tcp_segments +=
        (ipv4 && frame[IPV4_PROTOCOL_AT] == PROTOCOL_TCP) || (ipv6 && frame[IPV6_PROTOCOL_AT] == PROTOCOL_TCP)
            ? 1u
            : 0u;
    volatile uint32_t *command = uncached_words(hw_memory.tx_ring[slot]);
    command[0] = TS_PUT(TS_TX_COMMAND_OPCODE, ipv4 || ipv6 ? TS_TX_OPCODE_GATHER : TS_TX_OPCODE_RAW) |
                 TS_PUT(TS_TX_COMMAND_PORT, port) | TS_PUT(TS_TX_COMMAND_GATHER_COUNT, (uint32_t)count);
    command[1] = TS_PUT(TS_TX_COMMAND_TAG, slot);
    command[2] = 0u;
    command[3] = 0u;
    command[4] = 0u;
    command[5] = 0u;
    command[TS_TX_COMMAND_GATHER_ADDRESS_WORD] = address_of(hw_memory.tx_gather[slot]);
    memory_barrier();
    command[TS_TX_COMMAND_OWNER_WORD] =
        TS_PUT(TS_TX_COMMAND_EPOCH, tx->epoch) | TS_PUT(TS_TX_COMMAND_OWNER, 1u);
    tx->pbufs[slot] = p;
    tx->producer++;
    tx->frames++;
    mmio_write(TS_TX_PRODUCER, tx->producer);
    return 0;
}

int tx_reap(struct tx *tx)
{
    int returned = 0;
    mmio_write(TS_TX_CONSUMER, 1u); /* clears the event; done bits that come later raise it again */
    while (tx->consumer != tx->producer) {
        uint32_t slot = tx->consumer % TX_RING_ENTRIES;
        uint32_t state = uncached_words(hw_memory.tx_ring[slot])[TS_TX_COMMAND_DONE_WORD];
        if (TS_GET(state, TS_TX_COMMAND_DONE) == 0u) {
            break;
        }
        if (TS_GET(state, TS_TX_COMMAND_STATUS) != TS_TX_STATUS_OK) {
            tx->errors++;
        }
        struct pbuf *p = tx->pbufs[slot];
        tx->pbufs[slot] = NULL;
        tx->consumer++;
        returned++;
        pbuf_free(p);
    }
    return returned;
}
