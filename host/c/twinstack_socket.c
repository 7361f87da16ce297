/* Blocking calls on sockets, names and pings. */
#include "twinstack_internal.h"

#include <string.h>

#define ADDRESS_WORDS TS_SOCKET_ADDRESS_WORDS

ts_address ts_ipv4(uint8_t a, uint8_t b, uint8_t c, uint8_t d, uint16_t port)
{
    ts_address address = {TS_AF_INET, port, 0, {a, b, c, d}};
    return address;
}

ts_address ts_ipv6(const uint8_t address[16], uint16_t port, uint32_t scope)
{
    ts_address result = {TS_AF_INET6, port, scope, {0}};
    memcpy(result.address, address, sizeof result.address);
    return result;
}

void ts_pack_address(uint32_t words[8], const ts_address *address)
{
    memset(words, 0, 4 * ADDRESS_WORDS);
    TS_SET(words, TS_SOCKET_ADDRESS_FAMILY, address->family);
    TS_SET(words, TS_SOCKET_ADDRESS_PORT, address->port);
    TS_SET(words, TS_SOCKET_ADDRESS_SCOPE, address->scope);
    ts_put_bytes(words, TS_SOCKET_ADDRESS_ADDRESS_WORD, address->address, sizeof address->address);
}

void ts_unpack_address(const uint32_t words[8], ts_address *address)
{
    address->family = (uint16_t)TS_READ(words, TS_SOCKET_ADDRESS_FAMILY);
    address->port = (uint16_t)TS_READ(words, TS_SOCKET_ADDRESS_PORT);
    address->scope = TS_READ(words, TS_SOCKET_ADDRESS_SCOPE);
    ts_get_bytes(words, TS_SOCKET_ADDRESS_ADDRESS_WORD, address->address, sizeof address->address);
}

/* --- Listeners and connections ---------------------------------------------------------------------------------- */

static void note_connection(ts_device *device, ts_operation *operation, int32_t result)
{
    ts_listener *listener = operation->argument;
    if (result <= 0)
        return;
    if (listener->queued < listener->queue_size) {
        listener->queue[(listener->first + listener->queued) % listener->queue_size] = (uint32_t)result;
        listener->queued++;
    } else {
        ts_entry entry = ts_entry_for(TS_OP_ABORT, (uint32_t)result);
        listener->refused++;
        ts_submit_detached(device, &entry);
    }
}

int ts_listen(ts_device *device, ts_listener *listener, const ts_address *local, uint32_t backlog,
              uint32_t flags, uint32_t *queue, uint32_t queue_size)
{
    memset(listener, 0, sizeof *listener);
    if (!queue_size)
        return -TS_EINVAL;
    listener->queue = queue;
    listener->queue_size = queue_size;
    ts_entry entry = ts_entry_for(TS_OP_TCP_LISTEN, 0);
    entry.length = backlog;
    entry.operation_flags = flags;
    ts_pack_address(entry.inline_words, local);
    int32_t result = ts_call(device, &entry, device->timeout_ms);
    if (result < 0)
        return result;
    listener->handle = (uint32_t)result;
    entry = ts_entry_for(TS_OP_TCP_ACCEPT, listener->handle);
    entry.operation_flags = TS_OPERATION_FLAG_ACCEPT_MULTISHOT;
    listener->accept.on_more = note_connection;
    listener->accept.argument = listener;
    int error = ts_submit(device, &entry, &listener->accept);
    if (error) {
        listener->accept.done = true;
        ts_listener_close(device, listener);
    }
    return error;
}

int32_t ts_accept(ts_device *device, ts_listener *listener, uint32_t timeout_ms)
{
    uint32_t began = device->hal.milliseconds(device->hal.context);
    for (;;) {
        int taken = ts_poll(device);
        if (listener->queued) {
            uint32_t handle = listener->queue[listener->first];
            listener->first = (listener->first + 1) % listener->queue_size;
            listener->queued--;
            return (int32_t)handle;
        }
        if (listener->accept.done)
            return listener->accept.result < 0 ? listener->accept.result : -TS_EBADF;
        if (device->failed)
            return -TS_EIO;
        if (timeout_ms != TS_FOREVER && device->hal.milliseconds(device->hal.context) - began >= timeout_ms)
            return -TS_ETIMEDOUT;
        if (!taken && device->hal.wait)
            device->hal.wait(device->hal.context, 1);
    }
}

int ts_listener_close(ts_device *device, ts_listener *listener)
{
    int result = ts_close(device, listener->handle, device->timeout_ms);
    /* The accept ends before or after that; until then its record is the device's. */
    int error = ts_wait(device, &listener->accept, device->timeout_ms);
    if (error) {
        device->failed = true;
        return -TS_EIO;
    }
    for (; listener->queued; listener->queued--) {
        ts_abort(device, listener->queue[listener->first]);
        listener->first = (listener->first + 1) % listener->queue_size;
    }
    return result;
}

int32_t ts_connect(ts_device *device, const ts_address *remote, const ts_address *local, uint32_t timeout_ms)
{
    ts_entry entry = ts_entry_for(TS_OP_TCP_CONNECT, 0);
    ts_pack_address(entry.inline_words, remote);
    if (local) {
        entry.operation_flags = local->port;
        ts_put_bytes(entry.inline_words, TS_SOCKET_ADDRESS_EXTRA_WORD, local->address, 4);
    }
    return ts_call(device, &entry, timeout_ms);
}

int32_t ts_udp_open(ts_device *device, const ts_address *local, uint32_t flags)
{
    ts_entry entry = ts_entry_for(TS_OP_UDP_OPEN, 0);
    entry.operation_flags = flags;
    ts_pack_address(entry.inline_words, local);
    return ts_call(device, &entry, device->timeout_ms);
}

/* --- Data ------------------------------------------------------------------------------------------------------- */

/* What is left of a time-out. */
static uint32_t time_left(ts_device *device, uint32_t began, uint32_t timeout_ms)
{
    uint32_t spent = device->hal.milliseconds(device->hal.context) - began;
    if (timeout_ms == TS_FOREVER)
        return TS_FOREVER;
    return spent < timeout_ms ? timeout_ms - spent : 0;
}

int32_t ts_send(ts_device *device, uint32_t handle, const void *data, size_t length, uint32_t timeout_ms)
{
    const uint8_t *bytes = data;
    size_t sent = 0;
    if (length > 0x7FFFFFFFu)
        return -TS_EINVAL;
    uint32_t began = device->hal.milliseconds(device->hal.context);
    do {
        size_t piece = length - sent < device->bounce_bytes ? length - sent : device->bounce_bytes;
        device->hal.write_memory(device->hal.context, device->bounce, bytes + sent, piece);
        ts_entry entry = ts_entry_for(TS_OP_SEND, handle);
        entry.buffer = device->bounce;
        entry.length = (uint32_t)piece;
        int32_t result = ts_call(device, &entry, time_left(device, began, timeout_ms));
        if (result < 0)
            return sent ? (int32_t)sent : result;
        sent += (size_t)result;
        if (!result)
            break;
    } while (sent < length);
    return (int32_t)sent;
}

/* Receive into the bounce buffer and copy. */
static int32_t receive(ts_device *device, ts_entry *entry, void *data, size_t length, uint32_t timeout_ms)
{
    uint32_t most = length < device->bounce_bytes ? (uint32_t)length : device->bounce_bytes;
    entry->buffer = device->bounce;
    entry->length = most;
    int32_t result = ts_call(device, entry, timeout_ms);
    if (result > 0) {
        if ((uint32_t)result > most)
            return -TS_EIO;
        if (device->hal.barrier)
            device->hal.barrier(device->hal.context);
        device->hal.read_memory(device->hal.context, device->bounce, data, (size_t)result);
    }
    return result;
}

int32_t ts_recv(ts_device *device, uint32_t handle, void *data, size_t length, uint32_t timeout_ms)
{
    ts_entry entry = ts_entry_for(TS_OP_RECV, handle);
    return receive(device, &entry, data, length, timeout_ms);
}

int32_t ts_sendto(ts_device *device, uint32_t handle, const void *data, size_t length,
                  const ts_address *remote, unsigned core, uint32_t timeout_ms)
{
    if (length > device->bounce_bytes)
        return -TS_EMSGSIZE;
    ts_entry entry = ts_entry_for(remote ? TS_OP_SENDTO : TS_OP_SEND, handle);
    if (remote)
        ts_pack_address(entry.inline_words, remote);
    device->hal.write_memory(device->hal.context, device->bounce, data, length);
    entry.buffer = device->bounce;
    entry.length = (uint32_t)length;
    entry.operation_flags = core << 8;
    return ts_call(device, &entry, timeout_ms);
}

int32_t ts_recvfrom(ts_device *device, uint32_t handle, void *data, size_t length, ts_address *remote,
                    uint32_t *whole, unsigned core, uint32_t timeout_ms)
{
    ts_entry entry = ts_entry_for(TS_OP_RECVFROM, handle);
    entry.operation_flags = core << 8;
    entry.inline_words[0] = device->results;
    int32_t result = receive(device, &entry, data, length, timeout_ms);
    if (result >= 0) {
        uint32_t words[ADDRESS_WORDS];
        ts_read_words(device, device->results, words, ADDRESS_WORDS);
        if (remote)
            ts_unpack_address(words, remote);
        if (whole)
            *whole = TS_READ(words, TS_SOCKET_ADDRESS_EXTRA);
    }
    return result;
}

int ts_shutdown(ts_device *device, uint32_t handle, uint32_t timeout_ms)
{
    ts_entry entry = ts_entry_for(TS_OP_SHUTDOWN, handle);
    return ts_call(device, &entry, timeout_ms);
}

int ts_close(ts_device *device, uint32_t handle, uint32_t timeout_ms)
{
    ts_entry entry = ts_entry_for(TS_OP_CLOSE, handle);
    return ts_call(device, &entry, timeout_ms);
}

int ts_abort(ts_device *device, uint32_t handle)
{
    ts_entry entry = ts_entry_for(TS_OP_ABORT, handle);
    return ts_call(device, &entry, device->timeout_ms);
}

/* --- Options, names --------------------------------------------------------------------------------------------- */

int ts_set_option(ts_device *device, uint32_t handle, uint32_t option, uint32_t value)
{
    ts_entry entry = ts_entry_for(TS_OP_SETSOCKOPT, handle);
    entry.operation_flags = option;
    entry.inline_words[0] = value;
    return ts_call(device, &entry, device->timeout_ms);
}

int ts_set_address_option(ts_device *device, uint32_t handle, uint32_t option, const ts_address *value)
{
    ts_entry entry = ts_entry_for(TS_OP_SETSOCKOPT, handle);
    entry.operation_flags = option;
    ts_pack_address(entry.inline_words, value);
    return ts_call(device, &entry, device->timeout_ms);
}

int32_t ts_get_option(ts_device *device, uint32_t handle, uint32_t option)
{
    ts_entry entry = ts_entry_for(TS_OP_GETSOCKOPT, handle);
    entry.operation_flags = option;
    return ts_call(device, &entry, device->timeout_ms);
}

static int name_of(ts_device *device, uint8_t operation, uint32_t handle, ts_address *address)
{
    ts_entry entry = ts_entry_for(operation, handle);
    uint32_t words[ADDRESS_WORDS];
    int32_t result = ts_call_for_words(device, &entry, words, ADDRESS_WORDS, device->timeout_ms);
    if (result < 0)
        return result;
    ts_unpack_address(words, address);
    return 0;
}

int ts_local_address(ts_device *device, uint32_t handle, ts_address *address)
{
    return name_of(device, TS_OP_GETSOCKNAME, handle, address);
}

int ts_remote_address(ts_device *device, uint32_t handle, ts_address *address)
{
    return name_of(device, TS_OP_GETPEERNAME, handle, address);
}

int ts_resolve(ts_device *device, const char *name, uint16_t family, ts_address *address, uint32_t timeout_ms)
{
    size_t length = strlen(name);
    if (length > 127)
        return -TS_EINVAL;
    ts_entry entry = ts_entry_for(TS_OP_RESOLVE, 0);
    device->hal.write_memory(device->hal.context, device->bounce, name, length);
    entry.buffer = device->bounce;
    entry.length = (uint32_t)length;
    entry.operation_flags = family;
    entry.inline_words[0] = device->results;
    uint32_t words[ADDRESS_WORDS];
    int32_t result = ts_call_for_words(device, &entry, words, ADDRESS_WORDS, timeout_ms);
    if (result < 0)
        return result;
    ts_unpack_address(words, address);
    return 0;
}

int32_t ts_ping(ts_device *device, const ts_address *remote, uint32_t bytes, uint32_t timeout_ms)
{
    ts_entry entry = ts_entry_for(TS_OP_PING, 0);
    ts_pack_address(entry.inline_words, remote);
    entry.length = bytes;
    entry.operation_flags = timeout_ms ? timeout_ms : 1;
    /* The engine bounds it; its answer comes a moment later. */
    return ts_call(device, &entry,
                   timeout_ms < TS_FOREVER - device->timeout_ms ? timeout_ms + device->timeout_ms
                                                                : TS_FOREVER);
}
