/* Sizes of the C library's records, to be compared with those that Python declares. */
#include "twinstack.h"

size_t ts_test_sizes[] = {
    sizeof(ts_hal),         sizeof(ts_memory),       sizeof(ts_device),   sizeof(ts_operation),
    sizeof(ts_entry),       sizeof(ts_address),      sizeof(ts_listener), sizeof(ts_ipv4_config),
    sizeof(ts_ipv6_config), sizeof(ts_netif_status), sizeof(ts_stats),    sizeof(ts_rule),
    sizeof(ts_dispatch),
};
