/* Fake engine: what hardware does, in the simplest way; events go to standard output as lines. */
#define _GNU_SOURCE
#include "fake.h"
#include "drivers.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE          0x1000u
#define DMA_DEPTH     4u
#define MESSAGES      16u
#define QUEUE_SPAN    64u
#define LOCK_RETRY_US 20u

struct transfer {
    uint32_t local, host_address, go;
};

struct dma_queue {
    uint32_t local, host_address;
    struct transfer queued[DMA_DEPTH];
    uint32_t count;
    uint32_t completions[QUEUE_SPAN], completion_head, completion_count;
};

/* As a frame to us has them: wire bytes, of IPv4 the first word; ports as integers. */
struct tuple {
    uint32_t source[4], destination[4], ports;
};

struct flow {
    struct tuple tuple;
    uint32_t state; /* 1 + core, or 0 */
};

struct udp_port {
    uint32_t port, spread, members;
};

/* Behind the shared region, seen by both processes like it. */
struct common {
    uint32_t locks[32]; /* {core + 1} of each holder */
    uint32_t guard;     /* of the flow table */
    uint32_t multicast[TS_CONFIG_PORTS][2];
    uint32_t padding[31 - 2 * TS_CONFIG_PORTS];
    struct flow flows[TS_CONFIG_FLOWS];
    struct udp_port udp_ports[TS_CONFIG_UDP_PORT_ENTRIES];
};

struct phy {
    bool there;
    uint16_t registers[32];
};

static struct {
    struct fake_options options;
    uint32_t ready, load, ms, tick, event_enable;
    uint32_t bad_free, rx_dropped, rx_enabled, rx_control, rx_limits, rx_watermark;
    uint32_t rx_producers[2], rx_consumers[2]; /* flow queue, other queue */
    uint32_t rx_held[2][2];                    /* by queue and class */
    uint32_t rx_free[2];                       /* by class */
    uint8_t rx_state[RX_BUFFERS];              /* 0: free, else 1 + queue */
    uint32_t tx_producer, tx_consumer, tx_enabled;
    bool tx_stalled, dma_stalled;
    uint32_t sq_consumer, sq_producer;
    uint32_t cq_words[3], cq_space;
    struct dma_queue in, out;
    uint32_t send_words[4], inbox[MESSAGES][5], inbox_head, inbox_count;
    struct tuple probe_tuple;
    uint32_t probe_core;
    uint32_t flow_result;
    struct common *common;
    uint32_t mac[TS_CONFIG_PORTS][3], mac_status[TS_CONFIG_PORTS], mdio_result[TS_CONFIG_PORTS];
    struct phy phys[TS_CONFIG_PORTS][32];
    uint32_t rule_words[2];
    uint32_t key[10], hash_config;
    uint32_t random;
} fake;

static uint8_t host_memory[FAKE_HOST_BYTES];

static int map(uint32_t address, uint32_t bytes, int file)
{
    void *want = (void *)(uintptr_t)address;
    int flags = MAP_FIXED_NOREPLACE | (file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    bytes = (bytes + PAGE - 1u) & ~(PAGE - 1u);
    if (file >= 0 && ftruncate(file, bytes) != 0) {
        return -1;
    }
    return mmap(want, bytes, PROT_READ | PROT_WRITE, flags, file, 0) == want ? 0 : -1;
}

int fake_init(const struct fake_options *options)
{
    const uint32_t shared_bytes = (TS_CONFIG_SHARED_BYTES + PAGE - 1u) & ~(PAGE - 1u);
    int shared = options->shared == NULL ? -1 : open(options->shared, O_RDWR | O_CREAT, 0600);
    fake.options = *options;
    fake.common = (struct common *)(uintptr_t)(TS_SHARED_BASE + shared_bytes);
    fake.cq_space = 255u;  /* a host that always keeps up */
    fake.hash_config = 3u; /* as after power-up */
    fake.random = options->random != 0u ? options->random : 0x1234567u + options->core;
    fake.rx_free[0] = RX_LARGE;
    fake.rx_free[1] = RX_SMALL;
    fake.options.flows = options->flows == 0u ? TS_CONFIG_FLOWS : options->flows;
    for (uint32_t port = 0; port < TS_CONFIG_PORTS; port++) {
        fake.mac[port][2] = TS_PUT(TS_MAC_CONTROL_SPEED, 2u);
    }
    return map(TS_DATA_BASE, sizeof(struct hw_layout), -1) |
           map(TS_RX_BANK_BASE, TS_CONFIG_RX_BANK_BYTES, -1) |
           map(TS_TX_BANK_BASE, TX_BUFFERS * TS_TX_BUFFER_BYTES, -1) |
           map(TS_SHARED_BASE, shared_bytes + sizeof(struct common), shared);
}

uint8_t *fake_host(uint32_t address, uint32_t length)
{
    return address <= FAKE_HOST_BYTES && length <= FAKE_HOST_BYTES - address ? host_memory + address : NULL;
}

void fake_time(uint32_t ms)
{
    fake.ms += ms;
    fake.tick = 1u;
}

void fake_manager(uint32_t core)
{
    fake.options.manager = core;
}

void fake_cq_space(uint32_t space)
{
    fake.cq_space = space;
}

void fake_tx_stall(bool stall)
{
    fake.tx_stalled = stall;
}

void fake_dma_stall(bool stall)
{
    fake.dma_stalled = stall;
}

uint32_t fake_rx_free(void)
{
    return fake.rx_free[0] + fake.rx_free[1];
}

uint32_t fake_rx_dropped(void)
{
    return fake.rx_dropped;
}

uint32_t fake_bad_free(void)
{
    return fake.bad_free;
}

/* --- Hash: Toeplitz over addresses and ports; the low bits alternate between the cores --- */

static uint32_t toeplitz(const uint8_t *data, uint32_t length)
{
    static const uint8_t key[40] = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
                                    0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
                                    0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
                                    0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};
    uint32_t hash = 0;
    uint32_t window = (uint32_t)key[0] << 24 | (uint32_t)key[1] << 16 | (uint32_t)key[2] << 8 | key[3];
    for (uint32_t bit = 0; bit < 8u * length; bit++) {
        if ((data[bit / 8u] >> (7u - bit % 8u) & 1u) != 0u) {
            hash ^= window;
        }
        uint32_t next = bit + 32u;
        window = window << 1 | (uint32_t)(key[next / 8u] >> (7u - next % 8u) & 1u);
    }
    return hash;
}

/* --- Flow table --- */

static void guard(bool take)
{
    uint32_t free_now = 0u;
    while (take && !__atomic_compare_exchange_n(&fake.common->guard, &free_now, 1u, false, __ATOMIC_SEQ_CST,
                                                __ATOMIC_SEQ_CST)) {
        free_now = 0u;
    }
    if (!take) {
        __atomic_store_n(&fake.common->guard, 0u, __ATOMIC_SEQ_CST);
    }
}

static uint32_t find_flow(const struct tuple *tuple)
{
    const struct flow *flows = fake.common->flows;
    for (uint32_t i = 0; i < fake.options.flows; i++) {
        if (flows[i].state != 0u && memcmp(&flows[i].tuple, tuple, sizeof(*tuple)) == 0) {
            return i;
        }
    }
    return UINT32_MAX;
}

/* --- UDP port table --- */

static struct udp_port *find_udp_port(uint32_t port)
{
    for (uint32_t i = 0; i < TS_CONFIG_UDP_PORT_ENTRIES; i++) {
        struct udp_port *entry = &fake.common->udp_ports[i];
        if (entry->members != 0u && entry->port == port) {
            return entry;
        }
    }
    return NULL;
}

static uint32_t add_udp_port(uint32_t port, uint32_t spread)
{
    struct udp_port *entry = find_udp_port(port);
    uint32_t mine = 1u << fake.options.core;
    if (entry != NULL) {
        bool member = (entry->members & mine) != 0u;
        if (!member && !(spread != 0u && entry->spread != 0u)) {
            return TS_FLOW_STATUS_EXISTS;
        }
        entry->members |= mine;
        return TS_FLOW_STATUS_OK;
    }
    for (uint32_t i = 0; i < TS_CONFIG_UDP_PORT_ENTRIES; i++) {
        if (fake.common->udp_ports[i].members == 0u) {
            fake.common->udp_ports[i] = (struct udp_port){port, spread, mine};
            return TS_FLOW_STATUS_OK;
        }
    }
    return TS_FLOW_STATUS_FULL;
}

static uint32_t remove_udp_port(uint32_t port)
{
    struct udp_port *entry = find_udp_port(port);
    uint32_t mine = 1u << fake.options.core;
    if (entry == NULL || (entry->members & mine) == 0u) {
        return TS_FLOW_STATUS_NOT_FOUND;
    }
    entry->members &= ~mine;
    return TS_FLOW_STATUS_OK;
}

static void udp_port_operation(uint32_t value)
{
    uint32_t port = fake.probe_tuple.ports >> 16, status;
    guard(true);
    status = TS_GET(value, TS_PROBE_FLOW_OPERATION) == TS_FLOW_OPERATION_ADD_PORT
                 ? add_udp_port(port, TS_GET(value, TS_PROBE_FLOW_IS_SPREAD))
                 : remove_udp_port(port);
    guard(false);
    fake.flow_result = TS_PUT(TS_PROBE_FLOW_RESULT_STATUS, status) | TS_PROBE_FLOW_RESULT_BUSY_MASK;
}

uint32_t fake_udp_ports(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < TS_CONFIG_UDP_PORT_ENTRIES; i++) {
        count += fake.common->udp_ports[i].members >> fake.options.core & 1u;
    }
    return count;
}

/* Which core gets a datagram: one of the port's members, the hash's if it is one, else by hash. */
static uint32_t core_of_datagram(uint32_t port, uint32_t hashed)
{
    const struct udp_port *entry = find_udp_port(port);
    uint32_t members = entry == NULL ? 0u : entry->members;
    return members == 0u || (members >> hashed & 1u) != 0u ? hashed : (uint32_t)__builtin_ctz(members);
}

static void probe(uint32_t go)
{
    uint8_t bytes[36];
    const struct tuple *tuple = &fake.probe_tuple;
    uint32_t each = TS_GET(go, TS_PROBE_GO_IS_IPV6) != 0u ? 16u : 4u;
    uint32_t source_port = tuple->ports & 0xFFFFu, destination_port = tuple->ports >> 16;
    memcpy(bytes, tuple->source, each);
    memcpy(bytes + each, tuple->destination, each);
    bytes[2u * each] = (uint8_t)(source_port >> 8);
    bytes[2u * each + 1u] = (uint8_t)source_port;
    bytes[2u * each + 2u] = (uint8_t)(destination_port >> 8);
    bytes[2u * each + 3u] = (uint8_t)destination_port;
    uint32_t index = TS_GET(go, TS_PROBE_GO_IS_TCP) != 0u ? find_flow(tuple) : UINT32_MAX;
    fake.probe_core = index != UINT32_MAX ? fake.common->flows[index].state - 1u
                                          : toeplitz(bytes, 2u * each + 4u) % 128u % fake.options.cores;
}

static void flow_operation(uint32_t value)
{
    struct flow *flows = fake.common->flows;
    uint32_t operation = TS_GET(value, TS_PROBE_FLOW_OPERATION), mine = fake.options.core + 1u, status;
    guard(true);
    uint32_t index = find_flow(&fake.probe_tuple);
    if (operation == TS_FLOW_OPERATION_INSERT) {
        status = index != UINT32_MAX ? TS_FLOW_STATUS_EXISTS : TS_FLOW_STATUS_FULL;
        for (uint32_t i = 0; i < fake.options.flows && index == UINT32_MAX; i++) {
            if (flows[i].state == 0u) {
                flows[i] = (struct flow){fake.probe_tuple, mine};
                index = i;
                status = TS_FLOW_STATUS_OK;
            }
        }
    } else if (operation == TS_FLOW_OPERATION_DELETE) {
        index = TS_GET(value, TS_PROBE_FLOW_INDEX);
        status = TS_FLOW_STATUS_NOT_FOUND;
        if (index < fake.options.flows && flows[index].state == mine) {
            flows[index].state = 0u;
            status = TS_FLOW_STATUS_OK;
        }
    } else if (operation == TS_FLOW_OPERATION_LOOKUP) {
        status = index != UINT32_MAX ? TS_FLOW_STATUS_OK : TS_FLOW_STATUS_NOT_FOUND;
    } else {
        status = TS_FLOW_STATUS_BAD_OPERATION;
    }
    uint32_t core = index < fake.options.flows && flows[index].state != 0u ? flows[index].state - 1u : 0u;
    guard(false);
    fake.flow_result = TS_PUT(TS_PROBE_FLOW_RESULT_STATUS, status) |
                       TS_PUT(TS_PROBE_FLOW_RESULT_INDEX, index) | TS_PUT(TS_PROBE_FLOW_RESULT_CORE, core) |
                       TS_PROBE_FLOW_RESULT_BUSY_MASK;
}

uint32_t fake_flows(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < fake.options.flows; i++) {
        count += fake.common->flows[i].state == fake.options.core + 1u ? 1u : 0u;
    }
    return count;
}

/* --- MAC and PHY --- */

void fake_mac_status(uint32_t port, uint32_t status)
{
    fake.mac_status[port] = status;
}

void fake_phy(uint32_t port, uint32_t address, uint32_t number, uint32_t value)
{
    fake.phys[port][address].there = true;
    fake.phys[port][address].registers[number] = (uint16_t)value;
}

void fake_no_phy(uint32_t port)
{
    memset(fake.phys[port], 0, sizeof(fake.phys[port]));
}

uint32_t fake_mac_control(uint32_t port)
{
    return fake.mac[port][2];
}

uint64_t fake_multicast(uint32_t port)
{
    const uint32_t *words = fake.common->multicast[port % TS_CONFIG_PORTS];
    return words[0] | (uint64_t)words[1] << 32;
}

static void mdio(uint32_t port, uint32_t value)
{
    struct phy *phy = &fake.phys[port][TS_GET(value, TS_MAC_MDIO_PHY)];
    uint32_t result = TS_MAC_MDIO_RESULT_BUSY_MASK;
    if (TS_GET(value, TS_MAC_MDIO_READ) != 0u) {
        result |= phy->there ? phy->registers[TS_GET(value, TS_MAC_MDIO_REGISTER)]
                             : (0xFFFFu | TS_MAC_MDIO_RESULT_ERROR_MASK);
    } else if (phy->there) {
        uint32_t number = TS_GET(value, TS_MAC_MDIO_REGISTER), data = TS_GET(value, TS_MAC_MDIO_DATA);
        printf("mdio %u %u %u\n", port, number, data);
        phy->registers[number] = (uint16_t)(number == 0u ? data & ~0x200u : data); /* restart clears itself */
    }
    fake.mdio_result[port] = result;
}

/* --- Receive path --- */

/* By the rule of twinstack.proto.memory_map, not by the driver's function: the test must see a difference. */
static uint8_t *bank_of(uint32_t index)
{
    uint32_t offset = index < RX_LARGE ? index * 1536u : RX_LARGE * 1536u + (index - RX_LARGE) * 256u;
    return (uint8_t *)(uintptr_t)(TS_RX_BANK_BASE + offset);
}

/* A buffer for a frame of one queue: small if it fits, else large, within the queue's limits. UINT32_MAX: none. */
static uint32_t take_buffer(uint32_t queue, uint32_t bytes)
{
    for (uint32_t class = bytes <= TS_RX_SMALL_BUFFER_BYTES ? 1u : 0u;; class --) {
        uint32_t limit = fake.rx_limits >> (16u * queue + 8u * class) & 0xFFu;
        uint32_t first = class == 0u ? 0u : RX_LARGE, last = class == 0u ? RX_LARGE : RX_BUFFERS;
        for (uint32_t i = first; i < last && fake.rx_held[queue][class] < limit; i++) {
            if (fake.rx_state[i] == 0u) {
                fake.rx_state[i] = (uint8_t)(1u + queue);
                fake.rx_held[queue][class]++;
                fake.rx_free[class]--;
                return i;
            }
        }
        if (class == 0u) {
            return UINT32_MAX;
        }
    }
}

/* What the parser finds: protocol and offset of the last header, and whether it is a fragment. */
struct parsed {
    bool ipv4, ipv6, fragment, options;
    uint8_t protocol;
    uint32_t l4, end; /* end of the packet by its length field */
};

static struct parsed parse(const uint8_t *frame, uint32_t length)
{
    struct parsed parsed = {0};
    if (length >= 34u && frame[12] == 8u && frame[13] == 0u) {
        parsed.ipv4 = true;
        parsed.protocol = frame[23];
        parsed.l4 = 14u + (uint32_t)(frame[14] & 15u) * 4u;
        parsed.end = 14u + ((uint32_t)frame[16] << 8 | frame[17]);
        parsed.fragment = ((frame[20] & 0x3Fu) | frame[21]) != 0u;
        parsed.options = parsed.l4 != 34u;
    } else if (length >= 54u && frame[12] == 0x86u && frame[13] == 0xDDu) {
        parsed.ipv6 = true;
        parsed.protocol = frame[20];
        parsed.l4 = 54u;
        parsed.end = 54u + ((uint32_t)frame[18] << 8 | frame[19]);
        while ((parsed.protocol == 0u || parsed.protocol == 43u || parsed.protocol == 44u ||
                parsed.protocol == 60u) &&
               !parsed.fragment && parsed.l4 + 8u <= length) {
            const uint8_t *header = frame + parsed.l4;
            parsed.fragment = parsed.protocol == 44u && (header[2] | (header[3] & 0xF9u)) != 0u;
            parsed.l4 += parsed.protocol == 44u ? 8u : 8u * (1u + header[1]);
            parsed.protocol = header[0];
            parsed.options = true;
        }
    }
    return parsed;
}

/* The flow table entry of a TCP segment that is this core's, or UINT32_MAX. */
static uint32_t flow_of(const uint8_t *frame, uint32_t length, const struct parsed *parsed)
{
    struct tuple tuple = {0};
    if (parsed->protocol != 6u || parsed->fragment || length < parsed->l4 + 20u) {
        return UINT32_MAX;
    }
    const uint8_t *ports = frame + parsed->l4;
    memcpy(tuple.source, frame + (parsed->ipv6 ? 22 : 26), parsed->ipv6 ? 16 : 4);
    memcpy(tuple.destination, frame + (parsed->ipv6 ? 38 : 30), parsed->ipv6 ? 16 : 4);
    tuple.ports = (uint32_t)(ports[0] << 8 | ports[1]) | (uint32_t)(ports[2] << 8 | ports[3]) << 16;
    uint32_t index = find_flow(&tuple);
    return index != UINT32_MAX && fake.common->flows[index].state == fake.options.core + 1u ? index
                                                                                            : UINT32_MAX;
}

void fake_frame(uint32_t port, bool answer, const uint8_t *frame, uint32_t length)
{
    uint32_t words[TS_RX_DESCRIPTOR_WORDS] = {0};
    if (fake.rx_enabled == 0u || length > 1518u || length < 14u) {
        fake.rx_dropped++;
        return;
    }
    struct parsed parsed = parse(frame, length);
    uint32_t flow = flow_of(frame, length, &parsed), queue = flow == UINT32_MAX ? 1u : 0u;
    uint32_t index = take_buffer(queue, length + 2u);
    if (index == UINT32_MAX) {
        fake.rx_dropped++;
        return;
    }
    uint8_t *buffer = bank_of(index);
    memset(buffer, 0, 2);
    memcpy(buffer + 2, frame, length);
    uint8_t *copy = hw_memory.rx_headers[index];
    memset(copy, 0xA5,
           TS_HEADER_COPY_BYTES); /* payload bytes beyond the copy must never be looked for here */
    memcpy(copy, buffer, length + 2u < TS_HEADER_COPY_BYTES ? length + 2u : TS_HEADER_COPY_BYTES);
    words[0] = TS_PUT(TS_RX_DESCRIPTOR_VERSION, TS_DESCRIPTOR_VERSION) | TS_PUT(TS_RX_DESCRIPTOR_PORT, port) |
               TS_PUT(TS_RX_DESCRIPTOR_BUFFER_INDEX, index) |
               TS_PUT(TS_RX_DESCRIPTOR_BUFFER_CLASS, index < RX_LARGE ? 0u : 1u);
    words[4] = TS_PUT(TS_RX_DESCRIPTOR_FLOW_INDEX, flow == UINT32_MAX ? 0u : flow);
    words[1] = TS_PUT(TS_RX_DESCRIPTOR_FRAME_LENGTH, length) | TS_PUT(TS_RX_DESCRIPTOR_L3_OFFSET, 14u);
    bool broadcast = memcmp(frame, "\xff\xff\xff\xff\xff\xff", 6) == 0;
    words[3] = TS_PUT(TS_RX_DESCRIPTOR_ANSWER, answer ? 1u : 0u) |
               TS_PUT(TS_RX_DESCRIPTOR_FLOW_HIT, flow == UINT32_MAX ? 0u : 1u) |
               TS_PUT(TS_RX_DESCRIPTOR_IS_BROADCAST, broadcast ? 1u : 0u) |
               TS_PUT(TS_RX_DESCRIPTOR_IS_MULTICAST, !broadcast && (frame[0] & 1u) != 0u ? 1u : 0u);
    words[8] = TS_PUT(TS_RX_DESCRIPTOR_IP_PROTOCOL, parsed.protocol);
    if (frame[12] == 8u && frame[13] == 6u) {
        words[3] |= TS_RX_DESCRIPTOR_IS_ARP_MASK;
    } else if (parsed.ipv4 || parsed.ipv6) {
        words[3] |= parsed.ipv4 ? TS_RX_DESCRIPTOR_IS_IPV4_MASK : TS_RX_DESCRIPTOR_IS_IPV6_MASK;
        words[3] |= TS_RX_DESCRIPTOR_IP_CHECKSUM_OK_MASK;
        words[3] |= parsed.options ? TS_RX_DESCRIPTOR_HAS_IP_OPTIONS_MASK : 0u;
        words[3] |=
            parsed.fragment ? TS_RX_DESCRIPTOR_IS_FRAGMENT_MASK : TS_RX_DESCRIPTOR_L4_CHECKSUM_OK_MASK;
        words[1] |= parsed.fragment ? 0u : TS_PUT(TS_RX_DESCRIPTOR_L4_OFFSET, parsed.l4);
        if (parsed.protocol == 6u && !parsed.fragment && length >= parsed.l4 + 20u) {
            uint32_t offset = parsed.l4 + (uint32_t)(frame[parsed.l4 + 12u] >> 4) * 4u;
            words[2] = TS_PUT(TS_RX_DESCRIPTOR_PAYLOAD_OFFSET, offset) |
                       TS_PUT(TS_RX_DESCRIPTOR_PAYLOAD_LENGTH, parsed.end - offset);
            words[3] |= TS_RX_DESCRIPTOR_IS_TCP_MASK;
        } else if (parsed.protocol == 17u && !parsed.fragment && length >= parsed.l4 + 8u) {
            words[2] = TS_PUT(TS_RX_DESCRIPTOR_PAYLOAD_OFFSET, parsed.l4 + 8u) |
                       TS_PUT(TS_RX_DESCRIPTOR_PAYLOAD_LENGTH, parsed.end - parsed.l4 - 8u);
            words[3] |= TS_RX_DESCRIPTOR_IS_UDP_MASK;
        } else if ((parsed.protocol == 1u || parsed.protocol == 58u) && !parsed.fragment) {
            words[3] |= TS_RX_DESCRIPTOR_IS_ICMP_MASK;
        }
    }
    words[15] = TS_PUT(TS_RX_DESCRIPTOR_EPOCH, fake.options.epoch) | TS_RX_DESCRIPTOR_OWNER_MASK;
    uint32_t entries = 1u << (queue == 0u ? TS_GET(fake.rx_control, TS_RX_CONTROL_RING_LOG2)
                                          : TS_GET(fake.rx_control, TS_RX_CONTROL_OTHER_RING_LOG2));
    uint32_t slot = fake.rx_producers[queue]++;
    if (((slot - fake.rx_consumers[queue]) & 0xFFFFu) >= entries) {
        printf("ring overrun %u\n", queue); /* limits and rings do not fit each other */
    }
    uint32_t(*ring)[TS_RX_DESCRIPTOR_WORDS] = queue == 0u ? hw_memory.rx_ring : hw_memory.rx_other_ring;
    memcpy(ring[slot % entries], words, sizeof(words));
}

/* --- Transmit path --- */

static uint32_t sum(const uint8_t *data, uint32_t length, uint32_t start)
{
    for (uint32_t i = 0; i < length; i++) {
        start += (i & 1u) != 0u ? data[i] : (uint32_t)data[i] << 8;
    }
    while (start >> 16 != 0u) {
        start = (start & 0xFFFFu) + (start >> 16);
    }
    return start;
}

static void put_checksum(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(~value >> 8);
    at[1] = (uint8_t)~value;
}

static void insert_checksums(uint8_t *frame, uint32_t length)
{
    struct parsed parsed = parse(frame, length);
    uint8_t protocol = parsed.protocol, *l4 = frame + parsed.l4;
    uint32_t bytes = parsed.end - parsed.l4, field = protocol == 6u ? 16u : protocol == 17u ? 6u : 2u;
    if (parsed.ipv4) {
        frame[24] = frame[25] = 0u;
        put_checksum(frame + 24, sum(frame + 14, parsed.l4 - 14u, 0u));
    }
    if (!parsed.fragment && (protocol == 6u || protocol == 17u || (parsed.ipv6 && protocol == 58u))) {
        uint32_t addresses = parsed.ipv4 ? 8u : 32u;
        l4[field] = l4[field + 1u] = 0u;
        uint32_t total = sum(l4, bytes, sum(frame + (parsed.ipv4 ? 26 : 22), addresses, protocol + bytes));
        put_checksum(l4 + field, protocol == 17u && total == 0xFFFFu ? 0u : total);
    }
}

static void print_hex(const uint8_t *data, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        printf("%02x", data[i]);
    }
    printf("\n");
}

static bool readable(uint32_t address, uint32_t length)
{
    static const struct {
        uint32_t base, bytes;
    } regions[] = {{TS_DATA_BASE, sizeof(struct hw_layout)},
                   {TS_RX_BANK_BASE, TS_CONFIG_RX_BANK_BYTES},
                   {TS_TX_BANK_BASE, TX_BUFFERS * TS_TX_BUFFER_BYTES}};
    for (uint32_t i = 0; i < 3u; i++) {
        if (address >= regions[i].base && address - regions[i].base + length <= regions[i].bytes) {
            return true;
        }
    }
    return false;
}

static void transmit(uint32_t *command)
{
    uint8_t frame[2048];
    uint32_t length = 0, count = TS_WORD_GET(command, TS_TX_COMMAND_GATHER_COUNT);
    uint32_t opcode = TS_WORD_GET(command, TS_TX_COMMAND_OPCODE), status = TS_TX_STATUS_OK;
    const uint32_t *list = (const uint32_t *)(uintptr_t)command[TS_TX_COMMAND_GATHER_ADDRESS_WORD];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = TS_GET(list[2u * i + 1u], TS_GATHER_ENTRY_LENGTH);
        if (!readable(list[2u * i], bytes) || length + bytes > 1518u) {
            status = TS_TX_STATUS_BAD_GATHER;
            break;
        }
        memcpy(frame + length, (const void *)(uintptr_t)list[2u * i], bytes);
        length += bytes;
    }
    if (status == TS_TX_STATUS_OK) {
        if (opcode == TS_TX_OPCODE_GATHER) {
            insert_checksums(frame, length);
        }
        printf("tx %u ", TS_WORD_GET(command, TS_TX_COMMAND_PORT));
        print_hex(frame, length);
    } else {
        printf("bad tx command\n");
    }
    command[TS_TX_COMMAND_DONE_WORD] = (command[TS_TX_COMMAND_DONE_WORD] & TS_TX_COMMAND_EPOCH_MASK) |
                                       TS_PUT(TS_TX_COMMAND_STATUS, status) | TS_TX_COMMAND_DONE_MASK;
}

static void move(struct dma_queue *queue, bool in)
{
    while (queue->count != 0u && !fake.dma_stalled) {
        struct transfer now = queue->queued[0];
        uint32_t length = TS_GET(now.go, TS_DMA_IN_GO_LENGTH), status = 0;
        uint8_t *host = fake_host(now.host_address, length);
        void *local = (void *)(uintptr_t)now.local;
        memmove(queue->queued, queue->queued + 1, (--queue->count) * sizeof(now));
        if (now.local < TS_RX_BANK_BASE || !readable(now.local, length)) {
            status = 1u;
        } else if (host == NULL) {
            status = 2u;
        } else {
            memcpy(in ? local : host, in ? host : local, length);
        }
        queue->completions[(queue->completion_head + queue->completion_count++) % QUEUE_SPAN] =
            TS_PUT(TS_DMA_IN_COMPLETION_TAG, TS_GET(now.go, TS_DMA_IN_GO_TAG)) |
            TS_PUT(TS_DMA_IN_COMPLETION_STATUS, status) | TS_DMA_IN_COMPLETION_VALID_MASK;
    }
}

void fake_step(void)
{
    while (!fake.tx_stalled && fake.tx_enabled != 0u && fake.tx_consumer != fake.tx_producer) {
        transmit(hw_memory.tx_ring[fake.tx_consumer % TX_RING_ENTRIES]);
        fake.tx_consumer = (fake.tx_consumer + 1u) & 0xFFFFu;
    }
    move(&fake.in, true);
    move(&fake.out, false);
}

/* --- Queues --- */

int fake_deliver(uint32_t host, bool joined, uint32_t join_id, const uint8_t *sqe)
{
    uint32_t *entry = hw_memory.sq_ring[fake.sq_producer % SQ_RING_ENTRIES];
    if (((fake.sq_producer - fake.sq_consumer) & 0xFFFFu) >= SQ_RING_ENTRIES) {
        return -1;
    }
    memset(entry, 0, TS_SQ_DELIVERY_BYTES);
    memcpy(entry, sqe, TS_SQE_BYTES);
    entry[16] = TS_PUT(TS_SQ_DELIVERY_HOST, host) | TS_PUT(TS_SQ_DELIVERY_IS_JOINED, joined ? 1u : 0u) |
                TS_PUT(TS_SQ_DELIVERY_JOIN_ID, join_id);
    entry[19] = TS_PUT(TS_SQ_DELIVERY_EPOCH, fake.options.epoch) | TS_SQ_DELIVERY_OWNER_MASK;
    fake.sq_producer++;
    return 0;
}

int fake_message(uint32_t from, const uint32_t words[4])
{
    if (fake.inbox_count == MESSAGES) {
        return -1;
    }
    uint32_t *slot = fake.inbox[(fake.inbox_head + fake.inbox_count++) % MESSAGES];
    slot[0] = from;
    memcpy(slot + 1, words, 16);
    return 0;
}

static void free_buffer(uint32_t index)
{
    if (index >= RX_BUFFERS || fake.rx_state[index] == 0u) {
        fake.bad_free++;
        return;
    }
    uint32_t class = index < RX_LARGE ? 0u : 1u;
    fake.rx_held[fake.rx_state[index] - 1u][class]--;
    fake.rx_free[class]++;
    fake.rx_state[index] = 0u;
    memset(bank_of(index), 0xEE, class == 0u ? TS_RX_BUFFER_BYTES : TS_RX_SMALL_BUFFER_BYTES);
}

static void post(uint32_t value)
{
    if (fake.cq_space == 0u) {
        printf("lost completion\n");
        return;
    }
    fake.cq_space -= fake.cq_space == 255u ? 0u : 1u;
    printf("cqe %u %u %d %u %u %u\n", fake.cq_words[0], fake.cq_words[1], (int32_t)fake.cq_words[2],
           TS_GET(value, TS_CQ_POST_MORE), TS_GET(value, TS_CQ_POST_IS_JOINED),
           TS_GET(value, TS_CQ_POST_JOIN_ID));
}

/* --- Registers --- */

static uint32_t dma_read(struct dma_queue *queue, uint32_t offset)
{
    if (offset == TS_DMA_IN_SPACE - TS_DMA_IN_LOCAL) {
        return DMA_DEPTH - queue->count;
    }
    if (offset == TS_DMA_IN_COMPLETION - TS_DMA_IN_LOCAL && queue->completion_count != 0u) {
        queue->completion_count--;
        return queue->completions[queue->completion_head++ % QUEUE_SPAN];
    }
    return 0u;
}

static void dma_write(struct dma_queue *queue, uint32_t offset, uint32_t value)
{
    if (offset == 0u) {
        queue->local = value;
    } else if (offset == TS_DMA_IN_HOST_ADDRESS - TS_DMA_IN_LOCAL) {
        queue->host_address = value;
    } else if (offset == TS_DMA_IN_GO - TS_DMA_IN_LOCAL && queue->count < DMA_DEPTH) {
        queue->queued[queue->count++] =
            (struct transfer){queue->local & ~TS_UNCACHED, queue->host_address, value};
    }
}

static uint32_t take_lock(uint32_t index)
{
    uint32_t free_now = 0u, core = fake.options.core;
    bool taken = __atomic_compare_exchange_n(&fake.common->locks[index], &free_now, core + 1u, false,
                                             __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (!taken) {
        usleep(LOCK_RETRY_US); /* a retry of the target takes as long as part of the holder's scan */
    }
    uint32_t owner = taken ? core : free_now - 1u;
    taken = taken || fake.options.broken_lock;
    return TS_PUT(TS_LOCK_LOCK_OWNER, owner) | TS_PUT(TS_LOCK_LOCK_TAKEN_NOW, taken ? 1u : 0u) |
           (owner == core ? TS_LOCK_LOCK_MINE_MASK : 0u);
}

/* Between looking at the directory and writing to it: the other process gets the time to do the same. */
void fake_race_point(void)
{
    if (fake.options.race_us != 0u) {
        usleep(fake.options.race_us);
    }
}

uint32_t mmio_read(uint32_t address)
{
    const struct fake_options *options = &fake.options;
    if (address >= TS_DMA_IN_LOCAL && address < TS_DMA_IN_LOCAL + 0x20u) {
        return dma_read(&fake.in, address - TS_DMA_IN_LOCAL);
    }
    if (address >= TS_DMA_OUT_LOCAL && address < TS_DMA_OUT_LOCAL + 0x20u) {
        return dma_read(&fake.out, address - TS_DMA_OUT_LOCAL);
    }
    if (address >= TS_MESSAGE_WORD(0) && address < TS_MESSAGE_WORD(4)) {
        return fake.inbox[fake.inbox_head % MESSAGES][1u + (address - TS_MESSAGE_WORD(0)) / 4u];
    }
    if (address >= TS_LOCK_LOCK(0) && address < TS_LOCK_LOCK(32)) {
        return take_lock((address - TS_LOCK_LOCK(0)) / 4u);
    }
    if (address >= TS_DISPATCH_KEY(0) && address < TS_DISPATCH_KEY(10)) {
        return fake.key[(address - TS_DISPATCH_KEY(0)) / 4u];
    }
    for (uint32_t port = 0; port < TS_CONFIG_PORTS; port++) {
        if (address >= TS_MAC_ADDRESS_LOW(port) && address <= TS_MAC_CONTROL(port)) {
            return fake.mac[port][(address - TS_MAC_ADDRESS_LOW(port)) / 4u];
        }
        if (address == TS_MAC_STATUS(port)) {
            return fake.mac_status[port];
        }
        if (address == TS_MAC_MDIO_RESULT(port)) { /* the first look comes too early */
            uint32_t result = fake.mdio_result[port];
            fake.mdio_result[port] &= ~TS_MAC_MDIO_RESULT_BUSY_MASK;
            return result;
        }
    }
    switch (address) {
    case TS_CORE_MAGIC:
        return TS_MAGIC;
    case TS_CORE_ABI:
        return options->abi;
    case TS_CORE_IDENTITY:
        return TS_PUT(TS_CORE_IDENTITY_CORE, options->core) | TS_PUT(TS_CORE_IDENTITY_CORES, options->cores) |
               TS_PUT(TS_CORE_IDENTITY_PORTS, TS_CONFIG_PORTS) |
               TS_PUT(TS_CORE_IDENTITY_MANAGER, options->manager) |
               TS_PUT(TS_CORE_IDENTITY_EPOCH, options->epoch);
    case TS_CORE_MEMORY:
        return TS_PUT(TS_CORE_MEMORY_DATA_KIB, TS_CONFIG_DATA_BYTES / 1024u) |
               TS_PUT(TS_CORE_MEMORY_RX_KIB, TS_CONFIG_RX_BANK_BYTES / 1024u) |
               TS_PUT(TS_CORE_MEMORY_TX_KIB, TS_CONFIG_TX_BANK_BYTES / 1024u);
    case TS_CORE_RANDOM:
        fake.random = fake.random * 1664525u + 1013904223u;
        return fake.random;
    case TS_TIMER_MILLISECONDS:
        return fake.ms;
    case TS_TIMER_CYCLES_LOW:
        return fake.ms * 75000u;
    case TS_EVENT_PENDING:
        return fake.tick != 0u ? TS_EVENT_TICK : 0u;
    case TS_CORE_RX_BUFFERS:
        return TS_PUT(TS_CORE_RX_BUFFERS_LARGE, RX_LARGE) | TS_PUT(TS_CORE_RX_BUFFERS_SMALL, RX_SMALL);
    case TS_RX_BUFFERS:
        return TS_PUT(TS_RX_BUFFERS_LARGE, fake.rx_free[0]) | TS_PUT(TS_RX_BUFFERS_SMALL, fake.rx_free[1]);
    case TS_PROBE_FLOW_RESULT: { /* the first look comes too early */
        uint32_t result = fake.flow_result;
        fake.flow_result &= ~TS_PROBE_FLOW_RESULT_BUSY_MASK;
        return result;
    }
    case TS_CQ_SPACE:
        return fake.cq_space;
    case TS_MESSAGE_STATUS:
        return TS_PUT(TS_MESSAGE_STATUS_SPACE, 0xFFu) |
               TS_PUT(TS_MESSAGE_STATUS_AVAILABLE, fake.inbox_count != 0u ? 1u : 0u) |
               TS_PUT(TS_MESSAGE_STATUS_SENDER, fake.inbox[fake.inbox_head % MESSAGES][0]);
    case TS_PROBE_RESULT:
        return TS_PUT(TS_PROBE_RESULT_CORE, fake.probe_core);
    case TS_DISPATCH_HASH_CONFIG:
        return fake.hash_config;
    case TS_DISPATCH_STATE:
        return TS_PUT(TS_DISPATCH_STATE_ALIVE,
                      options->alive != 0u ? options->alive : (1u << options->cores) - 1u) |
               TS_PUT(TS_DISPATCH_STATE_MANAGER, options->manager);
    default:
        return 0u;
    }
}

void mmio_write(uint32_t address, uint32_t value)
{
    if (address >= TS_DMA_IN_LOCAL && address < TS_DMA_IN_LOCAL + 0x20u) {
        dma_write(&fake.in, address - TS_DMA_IN_LOCAL, value);
        return;
    }
    if (address >= TS_DMA_OUT_LOCAL && address < TS_DMA_OUT_LOCAL + 0x20u) {
        dma_write(&fake.out, address - TS_DMA_OUT_LOCAL, value);
        return;
    }
    if (address >= TS_MESSAGE_SEND_WORD(0) && address < TS_MESSAGE_SEND_WORD(4)) {
        fake.send_words[(address - TS_MESSAGE_SEND_WORD(0)) / 4u] = value;
        return;
    }
    if (address >= TS_LOCK_LOCK(0) && address < TS_LOCK_LOCK(32)) {
        __atomic_store_n(&fake.common->locks[(address - TS_LOCK_LOCK(0)) / 4u], 0u, __ATOMIC_SEQ_CST);
        return;
    }
    if (address >= TS_DISPATCH_KEY(0) && address < TS_DISPATCH_KEY(10)) {
        fake.key[(address - TS_DISPATCH_KEY(0)) / 4u] = value;
        return;
    }
    if (address >= TS_PROBE_SOURCE(0) && address < TS_PROBE_SOURCE(4)) {
        fake.probe_tuple.source[(address - TS_PROBE_SOURCE(0)) / 4u] = value;
        return;
    }
    if (address >= TS_PROBE_DESTINATION(0) && address < TS_PROBE_DESTINATION(4)) {
        fake.probe_tuple.destination[(address - TS_PROBE_DESTINATION(0)) / 4u] = value;
        return;
    }
    for (uint32_t port = 0; port < TS_CONFIG_PORTS; port++) {
        if (address >= TS_MAC_ADDRESS_LOW(port) && address <= TS_MAC_CONTROL(port)) {
            fake.mac[port][(address - TS_MAC_ADDRESS_LOW(port)) / 4u] = value;
            return;
        }
        if (address == TS_MAC_MULTICAST(port, 0) || address == TS_MAC_MULTICAST(port, 1)) {
            fake.common->multicast[port][(address - TS_MAC_MULTICAST(port, 0)) / 4u] = value;
            return;
        }
        if (address == TS_MAC_MDIO(port)) {
            mdio(port, value);
            return;
        }
    }
    switch (address) {
    case TS_CONSOLE_DATA:
        fprintf(stderr, "%c", (int)value);
        break;
    case TS_CORE_READY:
        printf("ready %u %u\n", TS_GET(value, TS_CORE_READY_FIRMWARE_ABI),
               TS_GET(value, TS_CORE_READY_READY));
        break;
    case TS_TIMER_TICK:
        fake.tick = 0u;
        break;
    case TS_RX_FREE:
        free_buffer(value);
        break;
    case TS_RX_CONTROL:
        fake.rx_control = value;
        fake.rx_enabled = value >> 31;
        break;
    case TS_RX_LIMITS:
        fake.rx_limits = value;
        break;
    case TS_RX_WATERMARK:
        fake.rx_watermark = value;
        break;
    case TS_RX_CONSUMER:
        fake.rx_consumers[0] = value;
        break;
    case TS_RX_OTHER_CONSUMER:
        fake.rx_consumers[1] = value;
        break;
    case TS_DISPATCH_RULE_KIND:
    case TS_DISPATCH_RULE_PORTS:
        fake.rule_words[(address - TS_DISPATCH_RULE_KIND) / 4u] = value;
        break;
    case TS_DISPATCH_HASH_CONFIG:
        fake.hash_config = value;
        break;
    case TS_DISPATCH_INDIRECTION:
        printf("indirection %u %u\n", TS_GET(value, TS_DISPATCH_INDIRECTION_INDEX),
               TS_GET(value, TS_DISPATCH_INDIRECTION_CORE));
        break;
    case TS_DISPATCH_RULE:
        printf("rule %u %u %u\n", fake.rule_words[0], fake.rule_words[1], value);
        break;
    case TS_PROBE_FLOW:
        if (TS_GET(value, TS_PROBE_FLOW_OPERATION) >= TS_FLOW_OPERATION_ADD_PORT) {
            udp_port_operation(value);
        } else {
            flow_operation(value);
        }
        break;
    case TS_TX_CONTROL:
        fake.tx_enabled = value >> 31;
        break;
    case TS_TX_PRODUCER:
        fake.tx_producer = value;
        break;
    case TS_SQ_CONSUMER:
        fake.sq_consumer = value;
        break;
    case TS_CQ_USER_LOW:
    case TS_CQ_USER_HIGH:
    case TS_CQ_RESULT:
        fake.cq_words[(address - TS_CQ_USER_LOW) / 4u] = value;
        break;
    case TS_CQ_POST:
        post(value);
        break;
    case TS_MESSAGE_SEND:
        printf("message %u %u %u %u %u\n", value, fake.send_words[0], fake.send_words[1], fake.send_words[2],
               fake.send_words[3]);
        break;
    case TS_MESSAGE_POP:
        fake.inbox_head++;
        fake.inbox_count--;
        break;
    case TS_PROBE_PORTS:
        fake.probe_tuple.ports = value;
        break;
    case TS_PROBE_GO:
        probe(value);
        if (TS_GET(value, TS_PROBE_GO_IS_TCP) == 0u) {
            fake.probe_core = core_of_datagram(fake.probe_tuple.ports >> 16, fake.probe_core);
        }
        break;
    default:
        break;
    }
}
