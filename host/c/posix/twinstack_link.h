/* HAL for POSIX systems: an engine that another program serves at a local socket (docs/link-protocol.md), for instance
 * `twinstack sim --listen PATH`. */
#ifndef TWINSTACK_LINK_H
#define TWINSTACK_LINK_H

#include "twinstack.h"

typedef struct ts_link {
    int socket;
    uint16_t number;
    bool broken;
    uint32_t memory_base; /* Our part of host memory, for ts_memory. */
    uint32_t memory_bytes;
} ts_link;

/* Connect, and fill `hal`, which refers to `link`. -TS_ENODEV: nobody serves there; -TS_EBUSY: no place; -TS_EPROTO: another
 * version; -TS_EIO. Then ts_open and ts_attach. */
int ts_link_open(ts_link *link, const char *path, ts_hal *hal);

/* Disconnect: all that is open in the engine ends. */
void ts_link_close(ts_link *link);

#endif
