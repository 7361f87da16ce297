/* Reassembled segments and datagrams for another core.
 *
 * Fragments meet by address, connections by the whole tuple, datagrams by the UDP port. The bytes travel through this core's slice of the shared
 * region of packet memory, one slice a message: PART {port, offset, total, length, number}, answered by TAKEN. Only the
 * sender writes a slice, and not before the last part was taken, so no lock is needed. One packet at a time in each
 * direction; what comes meanwhile is dropped, and TCP sends it again. The receiver keeps a packet in TX buffers, from
 * which DMA can take it, and checks it whole. */
#include "stack.h"
#include "lwip/inet_chksum.h"
#include "lwip/ip.h"
#include "lwip/prot/ip6.h"

#define TIMEOUT_MS     200u
#define REGION_AT      (4u * TS_DIRECTORY_WORDS + RULES_BYTES)
#define REGION         (TS_SHARED_BASE + REGION_AT)
#define REGION_BYTES   (TS_CONFIG_SHARED_BYTES - REGION_AT)
#define SLICE_SMALLEST 64u
#define LARGEST        (HANDED_BUFFERS * TS_TX_BUFFER_BYTES) /* a datagram of five fragments */

static struct stack *instance; /* pbuf_free() calls back without context */

static uint32_t slice_bytes(const struct stack *stack)
{
    return REGION_BYTES / stack->cores & ~3u;
}

static uint32_t slice_address(const struct stack *stack, uint32_t core)
{
    return REGION + core * slice_bytes(stack);
}

static void on_handed_freed(struct pbuf *p)
{
    struct handed *handed = (struct handed *)(void *)p;
    handed->used = false;
    bank_give(&instance->bank, handed->buffer);
}

void handover_init(struct stack *stack)
{
    instance = stack;
    for (uint32_t i = 0; i < HANDED_BUFFERS; i++) {
        stack->handover.handed[i].custom.custom_free_function = on_handed_freed;
    }
}

/* --- Sender --- */

static void end(struct handover *handover)
{
    pbuf_free(handover->p);
    handover->p = NULL;
}

static void send_part(struct stack *stack)
{
    struct handover *handover = &stack->handover;
    uint32_t total = handover->p->tot_len;
    uint32_t length = LWIP_MIN(total - handover->offset, slice_bytes(stack));
    pbuf_copy_partial(handover->p, uncached(slice_address(stack, stack->core)), (u16_t)length,
                      handover->offset);
    memory_barrier();
    uint32_t words[4] = {MESSAGE_PART | (uint32_t)handover->port << 8, handover->offset | total << 16,
                         length | (uint32_t)handover->number << 16, 0u};
    handover->since = time_ms();
    handover->length = (uint16_t)length;
    if (message_send(&stack->message, handover->to, words) != 0) {
        handover->dropped++;
        end(handover);
    }
}

/* Takes `p`, a whole packet. */
void handover_give(struct stack *stack, uint32_t to, uint32_t port, struct pbuf *p)
{
    struct handover *handover = &stack->handover;
    if (handover->p != NULL || to >= stack->cores || p->tot_len > LARGEST ||
        slice_bytes(stack) < SLICE_SMALLEST) {
        handover->dropped++;
        pbuf_free(p);
        return;
    }
    handover->p = p;
    handover->to = (uint8_t)to;
    handover->port = (uint8_t)port;
    handover->offset = 0u;
    handover->number++;
    send_part(stack);
}

static void on_taken(struct stack *stack, uint32_t sender, const uint32_t words[4])
{
    struct handover *handover = &stack->handover;
    if (handover->p == NULL || sender != handover->to || words[1] >> 16 != handover->number) {
        return; /* too late */
    }
    if ((words[0] >> 8 & 1u) == 0u) {
        handover->dropped++;
        end(handover);
        return;
    }
    handover->offset = (uint16_t)(handover->offset + handover->length);
    if (handover->offset == handover->p->tot_len) {
        handover->given++;
        end(handover);
    } else {
        send_part(stack);
    }
}

/* --- Receiver --- */

/* A buffer for `length` bytes, or NULL. */
static struct pbuf *take_buffer(struct stack *stack, uint32_t length)
{
    struct handed *handed = stack->handover.handed;
    while (handed != stack->handover.handed + HANDED_BUFFERS && handed->used) {
        handed++;
    }
    int buffer = handed == stack->handover.handed + HANDED_BUFFERS ? -E_NOBUFS : bank_take(&stack->bank);
    if (buffer < 0) {
        return NULL;
    }
    handed->used = true;
    handed->buffer = (uint8_t)buffer;
    return pbuf_alloced_custom(PBUF_RAW, (u16_t)LWIP_MIN(length, TS_TX_BUFFER_BYTES), PBUF_REF,
                               &handed->custom, uncached(bank_address((uint32_t)buffer)), TS_TX_BUFFER_BYTES);
}

static void forget_incoming(struct stack *stack)
{
    if (stack->handover.incoming != NULL) {
        pbuf_free(stack->handover.incoming);
        stack->handover.incoming = NULL;
    }
}

/* Buffers for a packet of `total` bytes; false if there are not enough. */
static bool make_incoming(struct stack *stack, uint32_t total)
{
    struct handover *handover = &stack->handover;
    for (uint32_t have = 0; have < total; have += TS_TX_BUFFER_BYTES) {
        struct pbuf *p = take_buffer(stack, total - have);
        if (p == NULL) {
            forget_incoming(stack);
            return false;
        }
        if (handover->incoming == NULL) {
            handover->incoming = p;
        } else {
            pbuf_cat(handover->incoming, p);
        }
    }
    return true;
}

static bool is_sane(struct pbuf *p)
{
    const struct ip_hdr *header = p->payload;
    const struct ip6_hdr *header6 = p->payload;
    if (p->len < IP_HLEN) {
        return false;
    }
    if (IPH_V(header) == 6u) {
        return p->len >= IP6_HLEN && IP6_HLEN + IP6H_PLEN(header6) == p->tot_len && ip6_checksum_ok(p);
    }
    return IPH_HL_BYTES(header) >= IP_HLEN && IPH_HL_BYTES(header) <= p->len &&
           lwip_ntohs(IPH_LEN(header)) == p->tot_len && ports_checksum_ok(p, header);
}

static void complete(struct stack *stack, uint32_t port)
{
    struct handover *handover = &stack->handover;
    struct pbuf *p = handover->incoming;
    handover->incoming = NULL;
    if (!is_sane(p)) {
        stack->bad_checksum++;
        pbuf_free(p);
        return;
    }
    handover->taken++;
    ip_input(p, &stack->netifs[port]);
}

/* True if the part is in its place. */
static bool take(struct stack *stack, uint32_t sender, const uint32_t words[4])
{
    struct handover *handover = &stack->handover;
    uint32_t port = words[0] >> 8 & 0xFFu, offset = words[1] & 0xFFFFu, total = words[1] >> 16;
    uint32_t length = words[2] & 0xFFFFu, number = words[2] >> 16;
    if (port >= stack->ports || total > LARGEST || length == 0u || length > slice_bytes(stack) ||
        offset + length > total) {
        return false;
    }
    if (offset == 0u) {
        if (handover->incoming != NULL && handover->in_from != sender) {
            return false;
        }
        forget_incoming(stack);
        if (!make_incoming(stack, total)) {
            return false;
        }
        handover->in_from = (uint8_t)sender;
        handover->in_number = (uint16_t)number;
        handover->in_total = (uint16_t)total;
        handover->in_offset = 0u;
    }
    if (handover->incoming == NULL || handover->in_from != sender || handover->in_number != number ||
        handover->in_total != total || handover->in_offset != offset) {
        return false;
    }
    memory_barrier();
    pbuf_take_at(handover->incoming, uncached(slice_address(stack, sender)), (u16_t)length, (u16_t)offset);
    handover->in_offset = (uint16_t)(offset + length);
    handover->in_since = time_ms();
    return true;
}

void handover_message(struct stack *stack, uint32_t sender, const uint32_t words[4])
{
    if (sender >= stack->cores || sender == stack->core) {
        return;
    }
    if ((words[0] & 0xFFu) == MESSAGE_TAKEN) {
        on_taken(stack, sender, words);
        return;
    }
    bool taken = take(stack, sender, words);
    uint32_t answer[4] = {MESSAGE_TAKEN | (taken ? 1u : 0u) << 8, words[2] & 0xFFFF0000u, 0, 0};
    message_send(&stack->message, sender,
                 answer); /* lost only when 8 wait: the sender gives up after a while */
    if (taken && stack->handover.in_offset == stack->handover.in_total) {
        complete(stack, words[0] >> 8 & 0xFFu);
    }
}

void handover_tick(struct stack *stack)
{
    struct handover *handover = &stack->handover;
    if (handover->p != NULL && time_ms() - handover->since >= TIMEOUT_MS) {
        handover->dropped++;
        end(handover);
    }
    if (handover->incoming != NULL && time_ms() - handover->in_since >= TIMEOUT_MS) {
        forget_incoming(stack);
    }
}
