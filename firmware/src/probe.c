/* Hash probe and flow table: asks the dispatcher itself, so both can never disagree. */
#include "drivers.h"

#define PROBE_POLLS                                                                                          \
    4096u /* of five cycles or more: longer than any probe takes (docs/blocks/dispatcher.md) */

static void put_tuple(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                      uint16_t destination_port)
{
    uint32_t words = IP_IS_V6(source) ? 4u : 1u;
    for (uint32_t i = 0; i < 4u; i++) {
        mmio_write(TS_PROBE_SOURCE(i), i < words ? address_words(source)[i] : 0u);
        mmio_write(TS_PROBE_DESTINATION(i), i < words ? address_words(destination)[i] : 0u);
    }
    mmio_write(TS_PROBE_PORTS, TS_PUT(TS_PROBE_PORTS_SOURCE, source_port) |
                                   TS_PUT(TS_PROBE_PORTS_DESTINATION, destination_port));
}

/* Both result registers have their busy bit in the same place. */
static int wait(uint32_t address, uint32_t *result)
{
    for (uint32_t poll = 0; poll < PROBE_POLLS; poll++) {
        *result = mmio_read(address);
        if (TS_GET(*result, TS_PROBE_RESULT_BUSY) == 0u) {
            return 0;
        }
    }
    return -E_IO;
}

int probe_tuple(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                uint16_t destination_port, bool is_tcp, uint32_t *core)
{
    uint32_t result;
    put_tuple(source, destination, source_port, destination_port);
    mmio_write(TS_PROBE_GO, TS_PUT(TS_PROBE_GO_IS_IPV6, IP_IS_V6(source) ? 1u : 0u) |
                                TS_PUT(TS_PROBE_GO_HAS_PORTS, 1u) |
                                TS_PUT(TS_PROBE_GO_IS_TCP, is_tcp ? 1u : 0u));
    int error = wait(TS_PROBE_RESULT, &result);
    if (error == 0) {
        *core = TS_GET(result, TS_PROBE_RESULT_CORE);
    }
    return error;
}

static int flow_error(uint32_t status)
{
    switch (status) {
    case TS_FLOW_STATUS_OK:
        return 0;
    case TS_FLOW_STATUS_EXISTS:
        return -E_EXIST;
    case TS_FLOW_STATUS_FULL:
        return -E_NOSPC;
    case TS_FLOW_STATUS_NOT_FOUND:
        return -E_INVAL;
    default:
        return -E_IO;
    }
}

static int operate(uint32_t operation, bool is_ipv6, uint32_t index, uint32_t *result)
{
    mmio_write(TS_PROBE_FLOW, TS_PUT(TS_PROBE_FLOW_OPERATION, operation) |
                                  TS_PUT(TS_PROBE_FLOW_IS_IPV6, is_ipv6 ? 1u : 0u) |
                                  TS_PUT(TS_PROBE_FLOW_IS_TCP, 1u) | TS_PUT(TS_PROBE_FLOW_INDEX, index));
    int error = wait(TS_PROBE_FLOW_RESULT, result);
    return error != 0 ? error : flow_error(TS_GET(*result, TS_PROBE_FLOW_RESULT_STATUS));
}

int flow_insert(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                uint16_t destination_port, uint16_t *index)
{
    uint32_t result;
    put_tuple(source, destination, source_port, destination_port);
    int error = operate(TS_FLOW_OPERATION_INSERT, IP_IS_V6(source), 0u, &result);
    *index = error == 0 ? (uint16_t)TS_GET(result, TS_PROBE_FLOW_RESULT_INDEX) : 0u;
    return error;
}

int flow_delete(uint16_t index)
{
    uint32_t result;
    return operate(TS_FLOW_OPERATION_DELETE, false, index, &result);
}

int flow_lookup(const ip_addr_t *source, const ip_addr_t *destination, uint16_t source_port,
                uint16_t destination_port, uint16_t *index, uint32_t *core)
{
    uint32_t result;
    put_tuple(source, destination, source_port, destination_port);
    int error = operate(TS_FLOW_OPERATION_LOOKUP, IP_IS_V6(source), 0u, &result);
    if (error == 0) {
        *index = (uint16_t)TS_GET(result, TS_PROBE_FLOW_RESULT_INDEX);
        *core = TS_GET(result, TS_PROBE_FLOW_RESULT_CORE);
    }
    return error;
}

/* The dispatcher's UDP port table; only the destination port of the tuple counts. */
static int operate_port(uint32_t operation, uint16_t port, bool spread)
{
    uint32_t result;
    mmio_write(TS_PROBE_PORTS, TS_PUT(TS_PROBE_PORTS_DESTINATION, port));
    mmio_write(TS_PROBE_FLOW, TS_PUT(TS_PROBE_FLOW_OPERATION, operation) |
                                  TS_PUT(TS_PROBE_FLOW_IS_SPREAD, spread ? 1u : 0u));
    int error = wait(TS_PROBE_FLOW_RESULT, &result);
    return error != 0 ? error : flow_error(TS_GET(result, TS_PROBE_FLOW_RESULT_STATUS));
}

int udp_port_add(uint16_t port, bool spread)
{
    return operate_port(TS_FLOW_OPERATION_ADD_PORT, port, spread);
}

int udp_port_remove(uint16_t port)
{
    return operate_port(TS_FLOW_OPERATION_REMOVE_PORT, port, false);
}
