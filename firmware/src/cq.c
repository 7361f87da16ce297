/* Completions: what finds no space is refused here and kept by the operation's record (service.c). */
#include "drivers.h"

uint32_t cq_space(void)
{
    return TS_GET(mmio_read(TS_CQ_SPACE), TS_CQ_SPACE);
}

int cq_post(const struct completion *completion)
{
    if (cq_space() == 0u) {
        return -E_AGAIN;
    }
    mmio_write(TS_CQ_USER_LOW, completion->user_low);
    mmio_write(TS_CQ_USER_HIGH, completion->user_high);
    mmio_write(TS_CQ_RESULT, (uint32_t)completion->result);
    mmio_write(TS_CQ_POST, TS_PUT(TS_CQ_POST_MORE, completion->more ? 1u : 0u) |
                               TS_PUT(TS_CQ_POST_IS_JOINED, completion->joined ? 1u : 0u) |
                               TS_PUT(TS_CQ_POST_HOST, completion->host) |
                               TS_PUT(TS_CQ_POST_JOIN_ID, completion->join_id));
    return 0;
}
