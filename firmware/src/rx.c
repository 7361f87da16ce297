/* Receive queues: frames that hit the flow table, and all others. A frame becomes one custom pbuf without a copy.
 *
 * An unfragmented TCP segment's pbuf points to the header copy in data RAM: lwIP reads no further than the
 * headers, and rx_payload_address() translates what is left to the RX bank. Everything else points to the RX
 * bank itself. */
#include "drivers.h"

#define ARP_OPERATION  (TS_FRAME_PAD_BYTES + 20u) /* RFC 826, after the Ethernet header */
#define PROTOCOL_IGMP  2u
#define PROTOCOL_ICMP6 58u

/* RFC 2710 3.1, RFC 4861 4. */
enum {
    LISTENER_QUERY = 130,
    LISTENER_REPORT = 131,
    ROUTER_ADVERTISEMENT = 134,
    NEIGHBOUR_ADVERTISEMENT = 136
};

static struct rx *instance; /* pbuf_free() calls back without context */

static void give_back(struct rx *rx, uint32_t index)
{
    rx->buffers[index].out = false;
    mmio_write(TS_RX_FREE, index);
}

static void on_pbuf_freed(struct pbuf *p)
{
    struct rx_buffer *buffer = (struct rx_buffer *)(void *)p;
    give_back(instance, (uint32_t)(buffer - instance->buffers));
}

int rx_init(struct rx *rx, uint8_t epoch, uint8_t ports)
{
    instance = rx;
    rx->epoch = epoch;
    rx->ports = ports;
    for (uint32_t i = 0; i < RX_BUFFERS; i++) {
        rx->buffers[i].custom.custom_free_function = on_pbuf_freed;
    }
    for (uint32_t i = 0; i < RX_RING_ENTRIES; i++) {
        uncached_words(hw_memory.rx_ring[i])[TS_RX_DESCRIPTOR_OWNER_WORD] = 0u;
    }
    for (uint32_t i = 0; i < RX_OTHER_RING_ENTRIES; i++) {
        uncached_words(hw_memory.rx_other_ring[i])[TS_RX_DESCRIPTOR_OWNER_WORD] = 0u;
    }
    mmio_write(TS_RX_RING, address_of(hw_memory.rx_ring) - TS_DATA_BASE);
    mmio_write(TS_RX_OTHER_RING, address_of(hw_memory.rx_other_ring) - TS_DATA_BASE);
    mmio_write(TS_RX_HEADERS, address_of(hw_memory.rx_headers) - TS_DATA_BASE);
    mmio_write(TS_RX_CONSUMER, 0u);
    mmio_write(TS_RX_OTHER_CONSUMER, 0u);
    mmio_write(TS_RX_LIMITS, TS_PUT(TS_RX_LIMITS_FLOW_LARGE, RX_FLOW_LARGE) |
                                 TS_PUT(TS_RX_LIMITS_FLOW_SMALL, RX_FLOW_SMALL) |
                                 TS_PUT(TS_RX_LIMITS_OTHER_LARGE, RX_OTHER_LARGE) |
                                 TS_PUT(TS_RX_LIMITS_OTHER_SMALL, RX_OTHER_SMALL));
    mmio_write(TS_RX_WATERMARK, RX_WATERMARK);
    mmio_write(TS_RX_CONTROL, TS_PUT(TS_RX_CONTROL_RING_LOG2, RX_RING_LOG2) |
                                  TS_PUT(TS_RX_CONTROL_OTHER_RING_LOG2, RX_OTHER_RING_LOG2) |
                                  TS_PUT(TS_RX_CONTROL_ENABLE, 1u));
    return 0;
}

uint32_t rx_free_large(void)
{
    return TS_GET(mmio_read(TS_RX_BUFFERS), TS_RX_BUFFERS_LARGE);
}

uint32_t rx_free_small(void)
{
    return TS_GET(mmio_read(TS_RX_BUFFERS), TS_RX_BUFFERS_SMALL);
}

static uint32_t capacity(uint32_t index)
{
    return index < RX_LARGE ? TS_RX_BUFFER_BYTES : TS_RX_SMALL_BUFFER_BYTES;
}

/* As rx_buffer_offset() of twinstack.proto.memory_map: the large ones come first. */
uint32_t rx_buffer_address(uint32_t index)
{
    uint32_t large = index < RX_LARGE ? index : RX_LARGE;
    return TS_RX_BANK_BASE + large * TS_RX_BUFFER_BYTES + (index - large) * TS_RX_SMALL_BUFFER_BYTES;
}

struct rx_buffer *rx_buffer_of(struct rx *rx, const struct pbuf *p)
{
    uintptr_t offset = (uintptr_t)p - (uintptr_t)rx->buffers;
    return offset < sizeof(rx->buffers) ? &rx->buffers[offset / sizeof(rx->buffers[0])] : NULL;
}

uint32_t rx_payload_address(struct rx *rx, const struct pbuf *p)
{
    uint32_t address = address_of(p->payload);
    if (address >= TS_RX_BANK_BASE) {
        return address;
    }
    uint32_t index = (uint32_t)(rx_buffer_of(rx, p) - rx->buffers);
    return rx_buffer_address(index) + (address - address_of(hw_memory.rx_headers[index]));
}

/* Of group frames that all cores got, every core needs advertisements of neighbours and routers, and speaks for the groups
 * of its own sockets. */
static bool for_all(const uint32_t *words, const uint8_t *header)
{
    uint32_t l4 = TS_FRAME_PAD_BYTES + TS_WORD_GET(words, TS_RX_DESCRIPTOR_L4_OFFSET);
    uint32_t protocol = TS_WORD_GET(words, TS_RX_DESCRIPTOR_IP_PROTOCOL);
    uint8_t type = l4 < TS_HEADER_COPY_BYTES ? header[l4] : 0u;
    return protocol == PROTOCOL_IGMP ||
           (protocol == PROTOCOL_ICMP6 && (type == LISTENER_QUERY || type == LISTENER_REPORT ||
                                           type == ROUTER_ADVERTISEMENT || type == NEIGHBOUR_ADVERTISEMENT));
}

/* Frames that more than one core got, and that this one is not to answer: lwIP would. */
static bool not_ours_to_answer(const uint32_t *words, const uint8_t *header)
{
    uint32_t flags = words[TS_RX_DESCRIPTOR_IS_TCP_WORD];
    if (TS_GET(flags, TS_RX_DESCRIPTOR_ANSWER) != 0u) {
        return false;
    }
    if (TS_GET(flags, TS_RX_DESCRIPTOR_IS_ARP) != 0u) {
        return header[ARP_OPERATION] == 0u && header[ARP_OPERATION + 1u] == 1u; /* replies are for all */
    }
    return (TS_GET(flags, TS_RX_DESCRIPTOR_IS_BROADCAST) != 0u ||
            TS_GET(flags, TS_RX_DESCRIPTOR_IS_MULTICAST) != 0u) &&
           !for_all(words, header);
}

static void handle(struct rx *rx, const uint32_t *words)
{
    uint32_t index = TS_WORD_GET(words, TS_RX_DESCRIPTOR_BUFFER_INDEX);
    uint32_t length = TS_WORD_GET(words, TS_RX_DESCRIPTOR_FRAME_LENGTH) + TS_FRAME_PAD_BYTES;
    uint32_t port = TS_WORD_GET(words, TS_RX_DESCRIPTOR_PORT);
    uint32_t flags = words[TS_RX_DESCRIPTOR_IS_TCP_WORD];
    if (index >= RX_BUFFERS || rx->buffers[index].out) {
        rx->dropped++; /* not a buffer that can be given back */
        return;
    }
    struct rx_buffer *buffer = &rx->buffers[index];
    const uint8_t *header = uncached(address_of(hw_memory.rx_headers[index]));
    if (TS_WORD_GET(words, TS_RX_DESCRIPTOR_EPOCH) != rx->epoch) {
        rx->old_epoch++;
        give_back(rx, index);
        return;
    }
    if (TS_WORD_GET(words, TS_RX_DESCRIPTOR_VERSION) != TS_DESCRIPTOR_VERSION || length > capacity(index) ||
        port >= rx->ports || not_ours_to_answer(words, header) ||
        (rx->refuse != NULL && rx->refuse(rx->refuse_context, words, header))) {
        rx->dropped++;
        give_back(rx, index);
        return;
    }
    bool tcp = TS_GET(flags, TS_RX_DESCRIPTOR_IS_TCP) != 0u;
    bool headers_only = tcp && TS_GET(flags, TS_RX_DESCRIPTOR_IS_FRAGMENT) == 0u &&
                        TS_GET(flags, TS_RX_DESCRIPTOR_IS_TRUNCATED_PARSE) == 0u;
    rx->tcp_segments += tcp ? 1u : 0u;
    buffer->out = true;
    buffer->verified = TS_GET(flags, TS_RX_DESCRIPTOR_IP_CHECKSUM_OK) != 0u &&
                       TS_GET(flags, TS_RX_DESCRIPTOR_L4_CHECKSUM_OK) != 0u;
    void *start =
        headers_only ? uncached(address_of(hw_memory.rx_headers[index])) : uncached(rx_buffer_address(index));
    struct pbuf *p = pbuf_alloced_custom(PBUF_RAW, (u16_t)length, PBUF_REF, &buffer->custom, start,
                                         (u16_t)capacity(index));
    if (rx->input(rx->context, port, p) != 0) {
        rx->dropped++;
        pbuf_free(p);
    }
}

static int poll(struct rx *rx, uint32_t (*ring)[TS_RX_DESCRIPTOR_WORDS], uint32_t entries, uint16_t *consumer,
                uint32_t consumer_register, uint32_t budget)
{
    int handled = 0;
    while (budget-- > 0u) {
        volatile uint32_t *words = uncached_words(ring[*consumer % entries]);
        if (TS_WORD_GET(words, TS_RX_DESCRIPTOR_OWNER) == 0u) {
            break;
        }
        memory_barrier();
        /* The slot goes back before any buffer does: with all buffers out, the next descriptor takes this very slot. */
        uint32_t descriptor[TS_RX_DESCRIPTOR_WORDS];
        for (uint32_t i = 0; i < TS_RX_DESCRIPTOR_WORDS; i++) {
            descriptor[i] = words[i];
        }
        words[TS_RX_DESCRIPTOR_OWNER_WORD] = 0u;
        memory_barrier();
        handle(rx, descriptor);
        (*consumer)++;
        rx->frames++;
        mmio_write(consumer_register, *consumer);
        handled++;
    }
    return handled;
}

int rx_poll_flows(struct rx *rx, uint32_t budget)
{
    int handled = poll(rx, hw_memory.rx_ring, RX_RING_ENTRIES, &rx->consumer, TS_RX_CONSUMER, budget);
    rx->flow_frames += (uint32_t)handled;
    return handled;
}

int rx_poll_others(struct rx *rx, uint32_t budget)
{
    return poll(rx, hw_memory.rx_other_ring, RX_OTHER_RING_ENTRIES, &rx->other_consumer, TS_RX_OTHER_CONSUMER,
                budget);
}
