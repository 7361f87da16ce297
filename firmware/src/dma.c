/* Host DMA: a queue in front of the hardware's, and callbacks in order. */
#include "drivers.h"

/* Both directions have the same registers. */
#define REGISTER(dma, name) ((dma)->registers + (TS_DMA_IN_##name - TS_DMA_IN_LOCAL))

void dma_init_in(struct dma *dma)
{
    dma->registers = TS_DMA_IN_LOCAL;
}

void dma_init_out(struct dma *dma)
{
    dma->registers = TS_DMA_OUT_LOCAL;
}

uint32_t dma_space(const struct dma *dma)
{
    return DMA_QUEUE - (uint16_t)(dma->submitted - dma->completed);
}

static void issue(struct dma *dma)
{
    while (dma->issued != dma->submitted && mmio_read(REGISTER(dma, SPACE)) != 0u) {
        uint32_t slot = dma->issued % DMA_QUEUE;
        mmio_write(REGISTER(dma, LOCAL), dma->queue[slot].local);
        mmio_write(REGISTER(dma, HOST_ADDRESS), dma->queue[slot].host_address);
        mmio_write(REGISTER(dma, GO), TS_PUT(TS_DMA_IN_GO_LENGTH, dma->queue[slot].length) |
                                          TS_PUT(TS_DMA_IN_GO_TAG, slot) |
                                          TS_PUT(TS_DMA_IN_GO_HOST, dma->queue[slot].host));
        dma->issued++;
    }
}

int dma_submit(struct dma *dma, uint32_t local, uint32_t host_address, uint16_t length, uint8_t host,
               dma_done done, void *context, void *item)
{
    if (dma_space(dma) == 0u) {
        return -E_AGAIN;
    }
    uint32_t slot = dma->submitted % DMA_QUEUE;
    dma->queue[slot].local = local;
    dma->queue[slot].host_address = host_address;
    dma->queue[slot].length = length;
    dma->queue[slot].host = host;
    dma->queue[slot].done = done;
    dma->queue[slot].context = context;
    dma->queue[slot].item = item;
    dma->submitted++;
    issue(dma);
    return 0;
}

/* Status of a completion as an error number. */
static int error_of(uint32_t status)
{
    static const uint8_t errors[] = {0, E_IO, E_FAULT, E_IO};
    return -(int)(status < sizeof(errors) ? errors[status] : E_IO);
}

int dma_poll(struct dma *dma)
{
    int handled = 0;
    while (dma->completed != dma->issued) {
        uint32_t completion = mmio_read(REGISTER(dma, COMPLETION));
        if (TS_GET(completion, TS_DMA_IN_COMPLETION_VALID) == 0u) {
            break;
        }
        uint32_t slot = dma->completed % DMA_QUEUE;
        if (TS_GET(completion, TS_DMA_IN_COMPLETION_TAG) != slot) {
            platform_panic("DMA completions out of order");
        }
        dma->completed++;
        handled++;
        dma->queue[slot].done(dma->queue[slot].context, dma->queue[slot].item, dma->queue[slot].length,
                              error_of(TS_GET(completion, TS_DMA_IN_COMPLETION_STATUS)));
    }
    issue(dma);
    return handled;
}
