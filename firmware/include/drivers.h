/* Drivers of the core's register blocks. State first; 0 or a negative error number; no function waits without
 * bound. */
#ifndef DRIVERS_H
#define DRIVERS_H

#include <stdarg.h>

#include "platform.h"
#include "lwip/ip_addr.h"
#include "lwip/pbuf.h"

#ifdef TWINSTACK_SMALL
#undef IP_IS_V6
#define IP_IS_V6(address)                                                                                    \
    (false && (address) != NULL) /* addresses of both families exist, but none comes in */
#endif

/* --- console: log of this core, read by the host; what does not fit is dropped and counted by hardware ---
 */
void console_put(char byte);
void console_printf(const char *format, ...); /* %s %c %d, %u %x of uint32_t */

/* --- time --- */
uint32_t time_ms(void);
uint64_t time_cycles(void);
uint64_t time_idle_cycles(void);
uint64_t time_instructions(void);

/* --- lock unit --- */
struct lock {
    uint32_t taken;
};
enum { LOCK_DIRECTORY = 0, LOCK_MULTICAST = 1, LOCK_SPREAD = 2 };
int lock_take(struct lock *lock, uint32_t index); /* -E_BUSY after a bounded number of tries */
void lock_release(struct lock *lock, uint32_t index);

/* --- message FIFOs --- */
struct message {
    struct {
        uint32_t to;
        uint32_t words[4];
    } queue[MESSAGE_QUEUE];
    uint32_t head, count, sent;
};
int message_send(struct message *message, uint32_t to, const uint32_t words[4]);   /* -E_AGAIN: queue full */
int message_receive(struct message *message, uint32_t *sender, uint32_t words[4]); /* -E_AGAIN: none */
void message_flush(struct message *message);

/* --- hash probe and flow table: a frame from source to destination, both of one family, ports as integers --- */
/* Bytes as on the wire: one word of IPv4, four of IPv6. */
static inline const uint32_t *address_words(const ip_addr_t *address)
{
    return IP_IS_V6(address) ? ip_2_ip6(address)->addr : &ip_2_ip4(address)->addr;
}
int probe_tuple(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                uint16_t destination_port, bool is_tcp, uint32_t *core);
/* TCP: 0, -E_EXIST (another core may own it), -E_NOSPC, -E_IO. */
int flow_insert(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                uint16_t destination_port, uint16_t *index);
int flow_delete(uint16_t index);
int flow_lookup(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                uint16_t destination_port, uint16_t *index, uint32_t *core);

/* UDP port table: -E_EXIST (another core has it), -E_NOSPC, -E_IO; -E_INVAL: not this core's. */
int udp_port_add(uint16_t port, bool spread);
int udp_port_remove(uint16_t port);

/* --- receive queues --- */
struct rx_buffer {
    struct pbuf_custom custom; /* first, so that a pbuf leads to its buffer */
    bool out;
    bool verified; /* hardware checked the L3 and L4 checksums */
};

struct rx {
    struct rx_buffer buffers[RX_BUFFERS];
    uint16_t consumer, other_consumer;
    uint8_t epoch;
    uint8_t ports;
    uint32_t frames, flow_frames, tcp_segments, dropped, old_epoch;
    int (*input)(void *context, uint32_t port, struct pbuf *p); /* takes the pbuf if it returns 0 */
    bool (*refuse)(void *context, const volatile uint32_t *descriptor, const uint8_t *header);
    void *context, *refuse_context;
};
int rx_init(struct rx *rx, uint8_t epoch, uint8_t ports);
int rx_poll_flows(struct rx *rx, uint32_t budget); /* frames handled, of connections in the flow table */
int rx_poll_others(struct rx *rx, uint32_t budget);
uint32_t rx_free_large(void);
uint32_t rx_free_small(void);
uint32_t rx_buffer_address(uint32_t index);
struct rx_buffer *rx_buffer_of(struct rx *rx, const struct pbuf *p); /* NULL: not a received frame */
uint32_t rx_payload_address(struct rx *rx, const struct pbuf *p);    /* of p->payload, in packet memory */

/* --- transmit queue --- */
struct tx {
    struct pbuf *pbufs[TX_RING_ENTRIES];
    uint16_t producer, consumer;
    uint8_t epoch;
    bool starved; /* a frame was refused; tell TCP when there is space */
    uint32_t frames, tcp_segments, errors, copied;
};
int tx_init(struct tx *tx, uint8_t epoch);
int tx_send(struct tx *tx, uint32_t port, struct pbuf *p); /* keeps a reference until sent */
int tx_reap(struct tx *tx);                                /* commands returned */

/* --- host DMA, one queue for each direction; callbacks come in order of submission --- */
typedef void (*dma_done)(void *context, void *item, uint32_t length, int error);

struct dma {
    uint32_t registers; /* address of the block */
    struct {
        uint32_t local, host_address;
        uint16_t length;
        uint8_t host;
        dma_done done;
        void *context, *item;
    } queue[DMA_QUEUE];
    uint16_t submitted, issued, completed;
};
void dma_init_in(struct dma *dma);
void dma_init_out(struct dma *dma);
uint32_t dma_space(const struct dma *dma);
int dma_submit(struct dma *dma, uint32_t local, uint32_t host_address, uint16_t length, uint8_t host,
               dma_done done, void *context, void *item); /* -E_AGAIN: queue full */
int dma_poll(struct dma *dma);                            /* completions handled */

/* --- completions --- */
struct completion {
    uint32_t user_low, user_high;
    int32_t result;
    uint8_t host, join_id;
    bool joined, more;
};
uint32_t cq_space(void);
int cq_post(const struct completion *completion); /* -E_AGAIN: no space, nothing posted */

/* --- delivered submission queue entries --- */
struct sq {
    uint16_t consumer;
    uint8_t epoch;
    uint32_t old_epoch;
};
int sq_init(struct sq *sq, uint8_t epoch);
const uint32_t *sq_peek(struct sq *sq, uint32_t copy[TS_SQ_DELIVERY_WORDS]); /* NULL: none */
void sq_consume(struct sq *sq);

/* --- TX bank: buffers for data, scratch pieces for small results --- */
struct bank {
    uint8_t free[TX_BUFFERS];
    uint32_t free_count, scratch_free;
    struct {
        uint8_t buffer;
        uint16_t stamp;
    } limbo[TX_BUFFERS]; /* freed while commands that may read them are still queued */
    uint32_t limbo_head, limbo_count;
    struct tx *tx;
};
void bank_init(struct bank *bank, struct tx *tx);
int bank_take(struct bank *bank);                  /* index or -E_NOBUFS */
void bank_give(struct bank *bank, uint32_t index); /* reusable once the TX queue has passed */
void bank_reap(struct bank *bank);
uint32_t bank_address(uint32_t index);
uint32_t bank_scratch_take(struct bank *bank); /* CPU address, or 0 */
void bank_scratch_give(struct bank *bank, uint32_t address);

#endif
