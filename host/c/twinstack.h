/* C host library: the sockets of a Twinstack engine for a microcontroller or a driver writer.
 *
 * Portable C99, without allocation and without globals: all state is in the caller's records, so several devices work at the same
 * time. docs/c-library.md tells how to port it; docs/host-interface.md what the operations do.
 *
 * Results below zero are Linux error numbers (TS_E...), negated. Every call is bounded: a call with a time-out returns
 * -TS_ETIMEDOUT, any other within the device's timeout_ms. TS_FOREVER never ends by itself. After -TS_EIO the engine or the way to
 * it does not work: start again with ts_start.
 *
 * A device and all that belongs to it may be used by one thread at a time. */
#ifndef TWINSTACK_H
#define TWINSTACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TS_FOREVER 0xFFFFFFFFu

#define TS_ENOENT        2
#define TS_EIO           5
#define TS_EBADF         9
#define TS_EAGAIN        11 /* Also EWOULDBLOCK. */
#define TS_EACCES        13
#define TS_EFAULT        14
#define TS_EBUSY         16
#define TS_ENODEV        19
#define TS_EINVAL        22
#define TS_ENFILE        23
#define TS_ENOSPC        28
#define TS_EPIPE         32
#define TS_EPROTO        71
#define TS_EDESTADDRREQ  89
#define TS_EMSGSIZE      90
#define TS_ENOPROTOOPT   92
#define TS_EOPNOTSUPP    95
#define TS_EAFNOSUPPORT  97
#define TS_EADDRINUSE    98
#define TS_EADDRNOTAVAIL 99
#define TS_ENETUNREACH   101
#define TS_ECONNRESET    104
#define TS_ENOBUFS       105
#define TS_EISCONN       106
#define TS_ENOTCONN      107
#define TS_ETIMEDOUT     110
#define TS_ECONNREFUSED  111
#define TS_EHOSTUNREACH  113
#define TS_ECANCELED     125

/* --- Hardware --------------------------------------------------------------------------------------------------- */

/* How the library reaches one engine. Functions get `context` unchanged. */
typedef struct ts_hal {
    void *context;
    /* Registers, at a byte offset into the host's CSR target. */
    uint32_t (*read32)(void *context, uint32_t offset);
    void (*write32)(void *context, uint32_t offset, uint32_t value);
    /* Host memory, at a byte address of the host bus. Without a common address space these copy; with one they are memcpy. */
    void (*read_memory)(void *context, uint32_t address, void *to, size_t length);
    void (*write_memory)(void *context, uint32_t address, const void *from, size_t length);
    /* Time that never stops; it may wrap. */
    uint32_t (*milliseconds)(void *context);
    /* Sleep until the engine's interrupt, at most `milliseconds`, or shorter; NULL: poll. */
    void (*wait)(void *context, uint32_t milliseconds);
    /* Memory accesses before it are done before register accesses after it, and the other way round; NULL: they always are. */
    void (*barrier)(void *context);
    /* Whether the way to the engine is broken: what waits ends with -TS_EIO then. NULL: it never is. */
    bool (*broken)(void *context);
} ts_hal;

/* Host memory that the device may use, bus addresses. The rings come first, then results and the buffer through which the
 * blocking calls copy: the longer, the faster. */
typedef struct ts_memory {
    uint32_t base; /* Multiple of 64. */
    uint32_t bytes;
    uint8_t sq_log2; /* Entries of the submission ring, 0 to 15. */
    uint8_t cq_log2; /* Entries of the completion ring, 1 to 15. */
} ts_memory;

/* Bytes that ts_open asks for at least; 64 << sq_log2 and 16 << cq_log2 are the rings. */
#define TS_MEMORY_LEAST(sq_log2, cq_log2) ((64u << (sq_log2)) + (16u << (cq_log2)) + 512u + 1024u)

struct ts_device;

/* An operation under way. The caller provides the record; it must stay where it is until `done`. */
typedef struct ts_operation {
    bool done;
    int32_t result;
    /* Called from ts_poll with each earlier result of a multishot operation; set before submitting, or NULL. */
    void (*on_more)(struct ts_device *device, struct ts_operation *operation, int32_t result);
    /* Called from ts_poll when it is done, or NULL. It may submit again, with the same record, too. */
    void (*on_done)(struct ts_device *device, struct ts_operation *operation);
    void *argument; /* The caller's own. */
    uint64_t user_data;
    struct ts_operation *next;
} ts_operation;

/* What to submit; what an operation does not use is zero. */
typedef struct ts_entry {
    uint8_t operation; /* TS_OP_... of twinstack_abi.h. */
    uint32_t handle;
    uint32_t buffer; /* Bus address; it must lie within a window. */
    uint32_t length;
    uint32_t operation_flags;
    uint32_t inline_words[8];
} ts_entry;

/* Fill with ts_open; look, do not touch. */
typedef struct ts_device {
    ts_hal hal;
    uint32_t timeout_ms; /* May be set: bound of what needs no peer. */
    uint8_t cores;
    uint8_t ports;
    uint32_t code_bytes;
    uint32_t sync_hz;
    uint32_t unexpected; /* Completions that nobody waited for. */
    bool failed;
    ts_memory memory;
    uint32_t sq_base;
    uint32_t cq_base;
    uint32_t results;
    uint32_t bounce;
    uint32_t bounce_bytes;
    uint16_t sq_tail;
    uint16_t cq_head;
    uint64_t next_user_data;
    ts_operation *pending;
    ts_operation call; /* That of the blocking call. */
    bool calling;
    bool polling;
} ts_device;

/* Find the engine, compare the ABI version, divide the memory. Changes nothing of the engine.
 * -TS_EINVAL: incomplete hal, or memory; -TS_ENODEV: no engine; -TS_EPROTO: another ABI version. */
int ts_open(ts_device *device, const ts_hal *hal, const ts_memory *memory);

/* Hold the cores, check a firmware image and load it. -TS_EINVAL: none, damaged, or too long; -TS_EPROTO: for another ABI version;
 * -TS_EIO: refused by the engine. */
int ts_load(ts_device *device, const void *image, size_t length);

/* Set up window 0 and the queue, let the cores run, wait until all are alive. A hash key of zero becomes the published one of RSS.
 * -TS_ETIMEDOUT: a core does not come up, see ts_console; -TS_EPROTO: firmware for another ABI version. */
int ts_start(ts_device *device, uint32_t seed);

/* As ts_start on an engine that runs and that somebody else has started, for a queue of our own (docs/link-protocol.md). */
int ts_attach(ts_device *device);

/* Hold the cores and disable the queue: memory is ours again; operations under way end with -TS_ECANCELED. */
void ts_stop(ts_device *device);

/* Let the engine access further memory, through window 1 to 3; 0 bytes: no more. */
int ts_set_window(ts_device *device, unsigned number, uint32_t base, uint32_t bytes, bool may_read,
                  bool may_write);

/* Move up to `length` bytes of what a core has printed; returns how many. */
int ts_console(ts_device *device, unsigned core, char *text, size_t length);

/* --- Queue ------------------------------------------------------------------------------------------------------ */

/* Submit; `operation` gets the result. -TS_EBUSY: the ring stayed full for timeout_ms. */
int ts_submit(ts_device *device, const ts_entry *entry, ts_operation *operation);

/* Take completions that have come, and call their functions; returns how many. Never waits. */
int ts_poll(ts_device *device);

/* Poll until `operation` is done: 0, then see its result; -TS_ETIMEDOUT: it is still under way. */
int ts_wait(ts_device *device, ts_operation *operation, uint32_t timeout_ms);

/* Submit and wait; returns the result. After timeout_ms the operation is cancelled: -TS_ETIMEDOUT, unless it was done at last. A SEND
 * that is sent in part is not done within timeout_ms of the device more: its connection is aborted. All blocking calls are made of
 * this one; -TS_EBUSY: within a function that a blocking call has called. */
int32_t ts_call(ts_device *device, const ts_entry *entry, uint32_t timeout_ms);

/* Ask for the end of an operation; it completes by itself, with -TS_ECANCELED if it was not done first. */
int ts_cancel(ts_device *device, const ts_operation *operation);

/* --- Addresses -------------------------------------------------------------------------------------------------- */

typedef struct ts_address {
    uint16_t family; /* TS_AF_INET or TS_AF_INET6. */
    uint16_t port;
    uint32_t scope;      /* IPv6: network port plus one, or zero. */
    uint8_t address[16]; /* As on the wire; IPv4 in the first four. */
} ts_address;

ts_address ts_ipv4(uint8_t a, uint8_t b, uint8_t c, uint8_t d, uint16_t port);
ts_address ts_ipv6(const uint8_t address[16], uint16_t port, uint32_t scope);

/* --- Sockets ---------------------------------------------------------------------------------------------------- */

/* A listener and the connections that nobody has taken yet; when `queue` is full, further ones are reset. */
typedef struct ts_listener {
    uint32_t handle;
    ts_operation accept;
    uint32_t *queue;
    uint32_t queue_size;
    uint32_t queued;
    uint32_t first;
    uint32_t refused; /* Connections that were reset. */
} ts_listener;

/* `flags`: TS_LISTEN_FLAG_... ; `queue` holds `queue_size` handles. Result 0. */
int ts_listen(ts_device *device, ts_listener *listener, const ts_address *local, uint32_t backlog,
              uint32_t flags, uint32_t *queue, uint32_t queue_size);
/* Handle of the next connection. */
int32_t ts_accept(ts_device *device, ts_listener *listener, uint32_t timeout_ms);
/* Close it; connections in its queue are reset. */
int ts_listener_close(ts_device *device, ts_listener *listener);

/* Handle of a connection. `local`: address and port to come from, or NULL; its address may be zero. */
int32_t ts_connect(ts_device *device, const ts_address *remote, const ts_address *local, uint32_t timeout_ms);
/* Handle of a datagram socket; `flags`: TS_UDP_FLAG_... */
int32_t ts_udp_open(ts_device *device, const ts_address *local, uint32_t flags);

/* All of `data`; returns `length`, or what was sent before an error or the time-out, or the error. */
int32_t ts_send(ts_device *device, uint32_t handle, const void *data, size_t length, uint32_t timeout_ms);
/* Up to `length` bytes; 0 at the end of the stream. */
int32_t ts_recv(ts_device *device, uint32_t handle, void *data, size_t length, uint32_t timeout_ms);
/* One datagram; `remote` NULL: to the socket's peer. `core`: which one of a spread socket, otherwise 0. */
int32_t ts_sendto(ts_device *device, uint32_t handle, const void *data, size_t length,
                  const ts_address *remote, unsigned core, uint32_t timeout_ms);
/* One datagram; `remote` and `whole` (bytes of the whole datagram) may be NULL. */
int32_t ts_recvfrom(ts_device *device, uint32_t handle, void *data, size_t length, ts_address *remote,
                    uint32_t *whole, unsigned core, uint32_t timeout_ms);

int ts_shutdown(ts_device *device, uint32_t handle, uint32_t timeout_ms);
int ts_close(ts_device *device, uint32_t handle, uint32_t timeout_ms);
int ts_abort(ts_device *device, uint32_t handle);

int ts_set_option(ts_device *device, uint32_t handle, uint32_t option, uint32_t value);
int ts_set_address_option(ts_device *device, uint32_t handle, uint32_t option, const ts_address *value);
int32_t ts_get_option(ts_device *device, uint32_t handle, uint32_t option);
int ts_local_address(ts_device *device, uint32_t handle, ts_address *address);
int ts_remote_address(ts_device *device, uint32_t handle, ts_address *address);

/* Address of a name of ASCII; `family` 0: any. */
int ts_resolve(ts_device *device, const char *name, uint16_t family, ts_address *address,
               uint32_t timeout_ms);
/* Microseconds until the answer; timeout_ms up to 60,000. */
int32_t ts_ping(ts_device *device, const ts_address *remote, uint32_t bytes, uint32_t timeout_ms);

/* --- Interfaces, statistics, dispatcher ------------------------------------------------------------------------- */

typedef struct ts_ipv4_config {
    bool dhcp; /* Then all else but `mac` is zero. */
    uint8_t prefix_length;
    uint8_t address[4];
    uint8_t gateway[4];
    uint8_t dns[2][4];
    uint8_t mac[6]; /* Zero keeps the present one. */
} ts_ipv4_config;

typedef struct ts_ipv6_config {
    bool autoconfigure;
    uint8_t prefix_length; /* 64 with an address. */
    uint8_t address[16];
    uint8_t gateway[8]; /* Interface identifier of a router fe80::/64, or zero. */
} ts_ipv6_config;

typedef struct ts_netif_status {
    bool configured, link_up, full_duplex, dhcp, dhcp_bound, autoconfigure;
    uint16_t speed; /* Mb/s. */
    uint8_t prefix_length;
    uint8_t mac[6];
    uint8_t address[4];
    uint8_t gateway[4];
    uint8_t dns[2][4];
    uint32_t lease_seconds;
    uint8_t address6[3][16]; /* Link-local first. */
    bool address6_ready[3];
    uint8_t router6[16];
    uint8_t dns6[16];
} ts_netif_status;

typedef struct ts_stats {
    uint8_t core, epoch;
    uint16_t sockets;
    uint64_t cycles, instructions, idle_cycles, bytes_in, bytes_out;
    uint32_t frames_in, frames_out, tcp_segments_in, tcp_segments_out;
    uint32_t connections, locks, messages, dropped;
    uint16_t rx_buffers_free, tx_buffers_free;
} ts_stats;

typedef struct ts_rule {
    uint8_t action; /* TS_RULE_ACTION_... */
    uint8_t core;
    bool match_ethertype, match_protocol, match_network_port, match_source_port, match_destination_port;
    uint16_t ethertype;
    uint8_t protocol, network_port;
    uint16_t source_port, destination_port;
} ts_rule;

/* Parts that it has are set; reading sets all. */
typedef struct ts_dispatch {
    bool has_key, has_hash_types, has_indirection, has_rules;
    uint32_t refused_at; /* After -TS_EINVAL: byte offset in the block of DISPATCH_CONFIG of what is wrong. */
    uint8_t key[40];
    bool tcp_ports, udp_ports;
    uint8_t indirection[128];
    ts_rule rules[8];
} ts_dispatch;

int ts_configure(ts_device *device, unsigned port, const ts_ipv4_config *config);
int ts_configure6(ts_device *device, unsigned port, const ts_ipv6_config *config);
int ts_status(ts_device *device, unsigned port, ts_netif_status *status);
int ts_read_stats(ts_device *device, unsigned core, ts_stats *stats);
int ts_set_dispatch(ts_device *device, ts_dispatch *dispatch);
int ts_get_dispatch(ts_device *device, ts_dispatch *dispatch);

#endif
