/* The executive: event loop, timers, idle accounting. One for each core, nothing shared with the other's. */
#include "stack.h"
#include "lwip/init.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/timeouts.h"

#define FLOW_BUDGET    8u /* frames of connections before the other queues get their turn */
#define OTHER_BUDGET   4u /* frames of strangers, likewise */
#define MESSAGE_BUDGET 4u
#define OOSEQ_RESERVE  3u /* RX buffers of a class free below which out-of-order data is given up */

static volatile uint32_t ticks; /* incremented by the interrupt handler */
static uint32_t ticks_seen;

unsigned char *const platform_heap = hw_memory.heap;

void executive_tick(void)
{
    mmio_write(TS_TIMER_TICK, 1u);
    ticks = ticks + 1u;
}

uint32_t platform_random(void)
{
    return mmio_read(TS_CORE_RANDOM);
}

uint32_t stack_manager(void)
{
    return TS_GET(mmio_read(TS_CORE_IDENTITY), TS_CORE_IDENTITY_MANAGER);
}

int stack_init(struct stack *stack)
{
    uint32_t identity = mmio_read(TS_CORE_IDENTITY);
    stack->core = (uint8_t)TS_GET(identity, TS_CORE_IDENTITY_CORE);
    stack->cores = (uint8_t)TS_GET(identity, TS_CORE_IDENTITY_CORES);
    stack->ports = (uint8_t)TS_GET(identity, TS_CORE_IDENTITY_PORTS);
    stack->epoch = (uint8_t)TS_GET(identity, TS_CORE_IDENTITY_EPOCH);
    if (stack->ports > TS_CONFIG_PORTS) {
        stack->ports = TS_CONFIG_PORTS;
    }
    for (uint32_t i = 0; i < 4u; i++) {
        stack->isn_secret[i] = platform_random();
    }
    lwip_init();
    dma_init_in(&stack->dma_in);
    dma_init_out(&stack->dma_out);
    bank_init(&stack->bank, &stack->tx);
    int error = directory_init(stack);
    multicast_init(stack);
    error = error != 0 ? error : ports_init(stack);
    error = error != 0 ? error : tx_init(&stack->tx, stack->epoch);
    error = error != 0 ? error : sq_init(&stack->sq, stack->epoch);
    error = error != 0 ? error : rx_init(&stack->rx, stack->epoch, stack->ports);
    if (error == 0) {
        handover_init(stack);
        rules_init(stack);
        link_init(stack);
        mmio_write(TS_EVENT_ENABLE, TS_EVENT_TICK);
        platform_interrupts(true);
    }
    return error;
}

/* Out-of-order segments hold RX buffers that nobody can read yet; under pressure the peers send them again.
 */
static void relieve_rx(void)
{
    if (rx_free_large() >= OOSEQ_RESERVE && (RX_SMALL == 0u || rx_free_small() >= OOSEQ_RESERVE)) {
        return;
    }
    for (struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL; pcb = pcb->next) {
        if (pcb->ooseq != NULL) {
            tcp_free_ooseq(pcb);
        }
    }
}

int executive_step(struct stack *stack, const struct program *program)
{
    int work = rx_poll_flows(&stack->rx, FLOW_BUDGET);
    work += rx_poll_others(&stack->rx, OTHER_BUDGET);
    if (work != 0) {
        relieve_rx();
    }
    int returned = tx_reap(&stack->tx);
    if (returned != 0) {
        bank_reap(&stack->bank);
        if (stack->tx.starved) {
            stack->tx.starved = false;
            tcp_txnow();
        }
    }
    work += returned;
    work += dma_poll(&stack->dma_in);
    work += dma_poll(&stack->dma_out);
    uint32_t sender, words[4];
    for (uint32_t i = 0; i < MESSAGE_BUDGET && message_receive(&stack->message, &sender, words) == 0; i++) {
        work += 1;
        uint32_t kind = words[0] & 0xFFu;
        if (kind == MESSAGE_LINK) {
            link_message(stack, words);
        } else if (kind == MESSAGE_PART || kind == MESSAGE_TAKEN) {
            handover_message(stack, sender, words);
        } else if (program->message != NULL) {
            program->message(program->context, sender, words);
        }
    }
    message_flush(&stack->message);
    if (program->deliver != NULL) {
        work += program->deliver(program->context);
    }
    if ((mmio_read(TS_EVENT_PENDING) & TS_EVENT_TICK) != 0u) {
        executive_tick(); /* interrupts are off or not wired */
    }
    if (ticks != ticks_seen) {
        ticks_seen = ticks;
        work += 1;
        stack->in_timers = true;
        sys_check_timeouts();
        stack->in_timers = false;
        link_tick(stack);
        lease_tick(stack);
        handover_tick(stack);
        multicast_tick(stack);
    }
    if (work != 0 && program->pump != NULL) {
        work += program->pump(program->context);
    }
    return work;
}

void executive_run(struct stack *stack, const struct program *program)
{
    for (;;) {
        if (executive_step(stack, program) != 0) {
            continue;
        }
        /* Idle until an event; the tick bounds the wait. Low buffers are no work by themselves. */
        mmio_write(TS_TIMER_IDLE, 1u);
        while ((mmio_read(TS_EVENT_PENDING) & ~TS_EVENT_RX_LOW) == 0u && ticks == ticks_seen) {
        }
        mmio_write(TS_TIMER_IDLE, 0u);
    }
}
