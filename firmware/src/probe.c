/* Hash probe: asks the dispatcher itself, so both can never disagree. */
#include "drivers.h"

#define PROBE_POLLS 256u /* a probe takes at most 64 cycles */

int probe_ipv4(uint32_t source, uint32_t destination, uint16_t source_port, uint16_t destination_port,
               bool has_ports, uint32_t *core)
{
    mmio_write(TS_PROBE_SOURCE(0), source);
    mmio_write(TS_PROBE_DESTINATION(0), destination);
    for (uint32_t i = 1; i < 4u; i++) {
        mmio_write(TS_PROBE_SOURCE(i), 0u);
        mmio_write(TS_PROBE_DESTINATION(i), 0u);
    }
    mmio_write(TS_PROBE_PORTS, TS_PUT(TS_PROBE_PORTS_SOURCE, source_port) |
                                   TS_PUT(TS_PROBE_PORTS_DESTINATION, destination_port));
    mmio_write(TS_PROBE_GO, TS_PUT(TS_PROBE_GO_HAS_PORTS, has_ports ? 1u : 0u));
    for (uint32_t poll = 0; poll < PROBE_POLLS; poll++) {
        uint32_t result = mmio_read(TS_PROBE_RESULT);
        if (TS_GET(result, TS_PROBE_RESULT_BUSY) == 0u) {
            *core = TS_GET(result, TS_PROBE_RESULT_CORE);
            return 0;
        }
    }
    return -E_IO;
}
