/* Network ports, statistics, dispatcher. */
#include "twinstack_internal.h"

#include <string.h>

/* Bytes as on the wire in a field of one word. */
static uint32_t word_of(const uint8_t bytes[4])
{
    uint32_t word = 0;
    ts_put_bytes(&word, 0, bytes, 4);
    return word;
}

int ts_configure(ts_device *device, unsigned port, const ts_ipv4_config *config)
{
    ts_entry entry = ts_entry_for(TS_OP_NETIF_CONFIG, 0);
    uint32_t *words = entry.inline_words;
    entry.operation_flags = port;
    TS_SET(words, TS_NETIF_CONFIG_FAMILY, TS_AF_INET);
    TS_SET(words, TS_NETIF_CONFIG_PREFIX_LENGTH, config->prefix_length);
    TS_SET(words, TS_NETIF_CONFIG_DHCP, config->dhcp);
    TS_SET(words, TS_NETIF_CONFIG_ADDRESS, word_of(config->address));
    TS_SET(words, TS_NETIF_CONFIG_GATEWAY, word_of(config->gateway));
    TS_SET(words, TS_NETIF_CONFIG_DNS0, word_of(config->dns[0]));
    TS_SET(words, TS_NETIF_CONFIG_DNS1, word_of(config->dns[1]));
    ts_put_bytes(words, TS_NETIF_CONFIG_MAC_WORD, config->mac, sizeof config->mac);
    return ts_call(device, &entry, device->timeout_ms);
}

int ts_configure6(ts_device *device, unsigned port, const ts_ipv6_config *config)
{
    ts_entry entry = ts_entry_for(TS_OP_NETIF_CONFIG, 0);
    uint32_t *words = entry.inline_words;
    entry.operation_flags = port;
    TS_SET(words, TS_NETIF_CONFIG6_FAMILY, TS_AF_INET6);
    TS_SET(words, TS_NETIF_CONFIG6_PREFIX_LENGTH, config->prefix_length);
    TS_SET(words, TS_NETIF_CONFIG6_AUTOCONFIGURE, config->autoconfigure);
    ts_put_bytes(words, TS_NETIF_CONFIG6_ADDRESS_WORD, config->address, sizeof config->address);
    ts_put_bytes(words, TS_NETIF_CONFIG6_GATEWAY_WORD, config->gateway, sizeof config->gateway);
    return ts_call(device, &entry, device->timeout_ms);
}

int ts_status(ts_device *device, unsigned port, ts_netif_status *status)
{
    static const uint16_t speeds[4] = {10, 100, 1000, 0};
    uint32_t words[TS_NETIF_STATUS_WORDS];
    ts_entry entry = ts_entry_for(TS_OP_NETIF_STATUS, 0);
    entry.operation_flags = port;
    int32_t result = ts_call_for_words(device, &entry, words, TS_NETIF_STATUS_WORDS, device->timeout_ms);
    if (result < 0)
        return result;
    status->configured = TS_READ(words, TS_NETIF_STATUS_CONFIGURED) != 0;
    status->link_up = TS_READ(words, TS_NETIF_STATUS_LINK_UP) != 0;
    status->full_duplex = TS_READ(words, TS_NETIF_STATUS_FULL_DUPLEX) != 0;
    status->dhcp = TS_READ(words, TS_NETIF_STATUS_DHCP) != 0;
    status->dhcp_bound = TS_READ(words, TS_NETIF_STATUS_DHCP_BOUND) != 0;
    status->autoconfigure = TS_READ(words, TS_NETIF_STATUS_AUTOCONFIGURE) != 0;
    status->speed = speeds[TS_READ(words, TS_NETIF_STATUS_SPEED)];
    status->prefix_length = (uint8_t)TS_READ(words, TS_NETIF_STATUS_PREFIX_LENGTH);
    status->lease_seconds = TS_READ(words, TS_NETIF_STATUS_LEASE_SECONDS);
    ts_get_bytes(words, TS_NETIF_STATUS_MAC_WORD, status->mac, 6);
    ts_get_bytes(words, TS_NETIF_STATUS_ADDRESS_WORD, status->address, 4);
    ts_get_bytes(words, TS_NETIF_STATUS_GATEWAY_WORD, status->gateway, 4);
    ts_get_bytes(words, TS_NETIF_STATUS_DNS0_WORD, status->dns[0], 4);
    ts_get_bytes(words, TS_NETIF_STATUS_DNS1_WORD, status->dns[1], 4);
    ts_get_bytes(words, TS_NETIF_STATUS_ADDRESS6_LINK_LOCAL_WORD, status->address6[0], 16);
    ts_get_bytes(words, TS_NETIF_STATUS_ADDRESS6_0_WORD, status->address6[1], 16);
    ts_get_bytes(words, TS_NETIF_STATUS_ADDRESS6_1_WORD, status->address6[2], 16);
    for (unsigned i = 0; i < 3; i++)
        status->address6_ready[i] = (TS_READ(words, TS_NETIF_STATUS_ADDRESS6_READY) >> i & 1u) != 0;
    ts_get_bytes(words, TS_NETIF_STATUS_ROUTER6_WORD, status->router6, 16);
    ts_get_bytes(words, TS_NETIF_STATUS_DNS6_WORD, status->dns6, 16);
    return 0;
}

int ts_read_stats(ts_device *device, unsigned core, ts_stats *stats)
{
    uint32_t words[TS_STATS_WORDS];
    ts_entry entry = ts_entry_for(TS_OP_STATS, 0);
    entry.operation_flags = core;
    int32_t result = ts_call_for_words(device, &entry, words, TS_STATS_WORDS, device->timeout_ms);
    if (result < 0)
        return result;
    stats->core = (uint8_t)TS_READ(words, TS_STATS_CORE);
    stats->epoch = (uint8_t)TS_READ(words, TS_STATS_EPOCH);
    stats->sockets = (uint16_t)TS_READ(words, TS_STATS_SOCKETS);
    stats->cycles = ts_get64(words, TS_STATS_CYCLES_WORD);
    stats->instructions = ts_get64(words, TS_STATS_INSTRUCTIONS_WORD);
    stats->idle_cycles = ts_get64(words, TS_STATS_IDLE_CYCLES_WORD);
    stats->bytes_in = ts_get64(words, TS_STATS_BYTES_IN_WORD);
    stats->bytes_out = ts_get64(words, TS_STATS_BYTES_OUT_WORD);
    stats->frames_in = TS_READ(words, TS_STATS_FRAMES_IN);
    stats->frames_out = TS_READ(words, TS_STATS_FRAMES_OUT);
    stats->tcp_segments_in = TS_READ(words, TS_STATS_TCP_SEGMENTS_IN);
    stats->tcp_segments_out = TS_READ(words, TS_STATS_TCP_SEGMENTS_OUT);
    stats->connections = TS_READ(words, TS_STATS_CONNECTIONS);
    stats->locks = TS_READ(words, TS_STATS_LOCKS);
    stats->messages = TS_READ(words, TS_STATS_MESSAGES);
    stats->dropped = TS_READ(words, TS_STATS_DROPPED);
    stats->rx_buffers_free = (uint16_t)TS_READ(words, TS_STATS_RX_BUFFERS_FREE);
    stats->tx_buffers_free = (uint16_t)TS_READ(words, TS_STATS_TX_BUFFERS_FREE);
    return 0;
}

static void pack_rule(uint32_t *words, const ts_rule *rule)
{
    TS_SET(words, TS_RULE_ENTRY_ETHERTYPE, rule->ethertype);
    TS_SET(words, TS_RULE_ENTRY_PROTOCOL, rule->protocol);
    TS_SET(words, TS_RULE_ENTRY_NETWORK_PORT, rule->network_port);
    TS_SET(words, TS_RULE_ENTRY_SOURCE_PORT, rule->source_port);
    TS_SET(words, TS_RULE_ENTRY_DESTINATION_PORT, rule->destination_port);
    TS_SET(words, TS_RULE_ENTRY_MATCH_ETHERTYPE, rule->match_ethertype);
    TS_SET(words, TS_RULE_ENTRY_MATCH_PROTOCOL, rule->match_protocol);
    TS_SET(words, TS_RULE_ENTRY_MATCH_NETWORK_PORT, rule->match_network_port);
    TS_SET(words, TS_RULE_ENTRY_MATCH_SOURCE_PORT, rule->match_source_port);
    TS_SET(words, TS_RULE_ENTRY_MATCH_DESTINATION_PORT, rule->match_destination_port);
    TS_SET(words, TS_RULE_ENTRY_ACTION, rule->action);
    TS_SET(words, TS_RULE_ENTRY_CORE, rule->core);
}

static void unpack_rule(const uint32_t *words, ts_rule *rule)
{
    rule->ethertype = (uint16_t)TS_READ(words, TS_RULE_ENTRY_ETHERTYPE);
    rule->protocol = (uint8_t)TS_READ(words, TS_RULE_ENTRY_PROTOCOL);
    rule->network_port = (uint8_t)TS_READ(words, TS_RULE_ENTRY_NETWORK_PORT);
    rule->source_port = (uint16_t)TS_READ(words, TS_RULE_ENTRY_SOURCE_PORT);
    rule->destination_port = (uint16_t)TS_READ(words, TS_RULE_ENTRY_DESTINATION_PORT);
    rule->match_ethertype = TS_READ(words, TS_RULE_ENTRY_MATCH_ETHERTYPE) != 0;
    rule->match_protocol = TS_READ(words, TS_RULE_ENTRY_MATCH_PROTOCOL) != 0;
    rule->match_network_port = TS_READ(words, TS_RULE_ENTRY_MATCH_NETWORK_PORT) != 0;
    rule->match_source_port = TS_READ(words, TS_RULE_ENTRY_MATCH_SOURCE_PORT) != 0;
    rule->match_destination_port = TS_READ(words, TS_RULE_ENTRY_MATCH_DESTINATION_PORT) != 0;
    rule->action = (uint8_t)TS_READ(words, TS_RULE_ENTRY_ACTION);
    rule->core = (uint8_t)TS_READ(words, TS_RULE_ENTRY_CORE);
}

static ts_entry dispatch_entry(ts_device *device)
{
    ts_entry entry = ts_entry_for(TS_OP_DISPATCH_CONFIG, 0);
    entry.buffer = device->results;
    entry.length = TS_DISPATCH_CONFIG_BYTES;
    return entry;
}

int ts_set_dispatch(ts_device *device, ts_dispatch *dispatch)
{
    uint32_t words[TS_DISPATCH_CONFIG_WORDS] = {0};
    dispatch->refused_at = 0;
    TS_SET(words, TS_DISPATCH_CONFIG_HAS_KEY, dispatch->has_key);
    TS_SET(words, TS_DISPATCH_CONFIG_HAS_HASH_TYPES, dispatch->has_hash_types);
    TS_SET(words, TS_DISPATCH_CONFIG_HAS_INDIRECTION, dispatch->has_indirection);
    TS_SET(words, TS_DISPATCH_CONFIG_HAS_RULES, dispatch->has_rules);
    if (dispatch->has_key)
        ts_put_bytes(words, TS_DISPATCH_CONFIG_KEY_WORD, dispatch->key, sizeof dispatch->key);
    if (dispatch->has_hash_types) {
        TS_SET(words, TS_DISPATCH_CONFIG_TCP_PORTS, dispatch->tcp_ports);
        TS_SET(words, TS_DISPATCH_CONFIG_UDP_PORTS, dispatch->udp_ports);
    }
    if (dispatch->has_indirection)
        ts_put_bytes(words, TS_DISPATCH_CONFIG_INDIRECTION_WORD, dispatch->indirection,
                     sizeof dispatch->indirection);
    for (uint32_t i = 0; dispatch->has_rules && i < TS_DISPATCH_RULES; i++)
        pack_rule(&words[TS_DISPATCH_CONFIG_RULES_WORD + i * TS_RULE_ENTRY_WORDS], &dispatch->rules[i]);
    ts_write_words(device, device->results, words, TS_DISPATCH_CONFIG_WORDS);
    ts_entry entry = dispatch_entry(device);
    int32_t result = ts_call_for_words(device, &entry, words, TS_DISPATCH_CONFIG_WORDS, device->timeout_ms);
    if (result == -TS_EINVAL) {
        ts_read_words(device, device->results, words, TS_DISPATCH_CONFIG_WORDS);
        dispatch->refused_at = TS_READ(words, TS_DISPATCH_CONFIG_REFUSED_AT);
    }
    return result < 0 ? result : 0;
}

int ts_get_dispatch(ts_device *device, ts_dispatch *dispatch)
{
    uint32_t words[TS_DISPATCH_CONFIG_WORDS];
    ts_entry entry = dispatch_entry(device);
    entry.operation_flags = TS_DISPATCH_FLAG_READ;
    int32_t result = ts_call_for_words(device, &entry, words, TS_DISPATCH_CONFIG_WORDS, device->timeout_ms);
    if (result < 0)
        return result;
    memset(dispatch, 0, sizeof *dispatch);
    dispatch->has_key = TS_READ(words, TS_DISPATCH_CONFIG_HAS_KEY) != 0;
    dispatch->has_hash_types = TS_READ(words, TS_DISPATCH_CONFIG_HAS_HASH_TYPES) != 0;
    dispatch->has_indirection = TS_READ(words, TS_DISPATCH_CONFIG_HAS_INDIRECTION) != 0;
    dispatch->has_rules = TS_READ(words, TS_DISPATCH_CONFIG_HAS_RULES) != 0;
    dispatch->tcp_ports = TS_READ(words, TS_DISPATCH_CONFIG_TCP_PORTS) != 0;
    dispatch->udp_ports = TS_READ(words, TS_DISPATCH_CONFIG_UDP_PORTS) != 0;
    ts_get_bytes(words, TS_DISPATCH_CONFIG_KEY_WORD, dispatch->key, sizeof dispatch->key);
    ts_get_bytes(words, TS_DISPATCH_CONFIG_INDIRECTION_WORD, dispatch->indirection,
                 sizeof dispatch->indirection);
    for (uint32_t i = 0; i < TS_DISPATCH_RULES; i++)
        unpack_rule(&words[TS_DISPATCH_CONFIG_RULES_WORD + i * TS_RULE_ENTRY_WORDS], &dispatch->rules[i]);
    return 0;
}
