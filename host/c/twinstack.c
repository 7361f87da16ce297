/* Device and queue: boot, submit, complete. */
#include "twinstack_internal.h"

#include <string.h>

#define CODE_CHUNK_WORDS 16u

/* Toeplitz key of the published RSS verification suite. */
static const uint8_t default_key[40] = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
                                        0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
                                        0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
                                        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

static uint32_t read_register(ts_device *device, uint32_t offset)
{
    return device->hal.read32(device->hal.context, offset);
}

static void write_register(ts_device *device, uint32_t offset, uint32_t value)
{
    device->hal.write32(device->hal.context, offset, value);
}

static void barrier(ts_device *device)
{
    if (device->hal.barrier)
        device->hal.barrier(device->hal.context);
}

static uint32_t now_ms(ts_device *device)
{
    return device->hal.milliseconds(device->hal.context);
}

static bool is_broken(ts_device *device)
{
    return device->hal.broken && device->hal.broken(device->hal.context);
}

static bool expired(ts_device *device, uint32_t began, uint32_t timeout_ms)
{
    return timeout_ms != TS_FOREVER && now_ms(device) - began >= timeout_ms;
}

static void relax(ts_device *device)
{
    if (device->hal.wait)
        device->hal.wait(device->hal.context, 1);
}

static uint32_t all_cores(const ts_device *device)
{
    return (1u << device->cores) - 1u;
}

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void put32(uint8_t *bytes, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

void ts_put_bytes(uint32_t *words, uint32_t word, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        words[word + i / 4] |= (uint32_t)bytes[i] << (8 * (i % 4));
}

void ts_get_bytes(const uint32_t *words, uint32_t word, uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(words[word + i / 4] >> (8 * (i % 4)));
}

uint64_t ts_get64(const uint32_t *words, uint32_t word)
{
    return (uint64_t)words[word + 1] << 32 | words[word];
}

void ts_write_words(ts_device *device, uint32_t address, const uint32_t *words, size_t count)
{
    uint8_t bytes[TS_RESULT_BYTES];
    for (size_t i = 0; i < count; i++)
        put32(&bytes[4 * i], words[i]);
    device->hal.write_memory(device->hal.context, address, bytes, 4 * count);
}

void ts_read_words(ts_device *device, uint32_t address, uint32_t *words, size_t count)
{
    uint8_t bytes[TS_RESULT_BYTES];
    device->hal.read_memory(device->hal.context, address, bytes, 4 * count);
    for (size_t i = 0; i < count; i++)
        words[i] = get32(&bytes[4 * i]);
}

/* --- Boot ------------------------------------------------------------------------------------------------------- */

int ts_open(ts_device *device, const ts_hal *hal, const ts_memory *memory)
{
    memset(device, 0, sizeof *device);
    if (!hal->read32 || !hal->write32 || !hal->read_memory || !hal->write_memory || !hal->milliseconds)
        return -TS_EINVAL;
    if (memory->base % 64 || memory->sq_log2 > 15 || memory->cq_log2 < 1 || memory->cq_log2 > 15)
        return -TS_EINVAL;
    if (memory->bytes < TS_MEMORY_LEAST(memory->sq_log2, memory->cq_log2) ||
        memory->bytes - 1 > 0xFFFFFFFFu - memory->base)
        return -TS_EINVAL;
    device->hal = *hal;
    device->memory = *memory;
    device->timeout_ms = 5000;
    device->sq_base = memory->base;
    device->cq_base = device->sq_base + (64u << memory->sq_log2);
    device->results = device->cq_base + (16u << memory->cq_log2);
    device->bounce = device->results + TS_RESULT_BYTES;
    device->bounce_bytes = memory->base + memory->bytes - device->bounce;
    device->next_user_data = 1; /* zero: nobody waits */
    device->failed = true;      /* until it is started */
    if (read_register(device, TS_ENGINE_MAGIC) != TS_MAGIC)
        return -TS_ENODEV;
    if (read_register(device, TS_ENGINE_ABI) != TS_ABI_VERSION)
        return -TS_EPROTO;
    uint32_t identity = read_register(device, TS_ENGINE_IDENTITY);
    device->cores = (uint8_t)TS_GET(identity, TS_ENGINE_IDENTITY_CORES);
    device->ports = (uint8_t)TS_GET(identity, TS_ENGINE_IDENTITY_PORTS);
    device->code_bytes = TS_GET(identity, TS_ENGINE_IDENTITY_CODE_KIB) * 1024u;
    device->sync_hz = read_register(device, TS_ENGINE_SYNC_HZ);
    return 0;
}

/* CRC-32 of IEEE 802.3, bit by bit: it runs once at boot. */
static uint32_t crc32(const uint8_t *bytes, size_t length)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1u ? 0xEDB88320u : 0u);
    }
    return ~crc;
}

int ts_load(ts_device *device, const void *image, size_t length)
{
    const uint8_t *bytes = image;
    if (length < TS_IMAGE_HEADER_BYTES)
        return -TS_EINVAL;
    uint32_t header[TS_IMAGE_HEADER_WORDS];
    for (uint32_t i = 0; i < TS_IMAGE_HEADER_WORDS; i++)
        header[i] = get32(&bytes[4 * i]);
    const uint8_t *body = bytes + TS_IMAGE_HEADER_BYTES;
    size_t size = length - TS_IMAGE_HEADER_BYTES;
    if (TS_READ(header, TS_IMAGE_HEADER_MAGIC) != TS_IMAGE_MAGIC)
        return -TS_EINVAL;
    if (TS_READ(header, TS_IMAGE_HEADER_ABI) != TS_ABI_VERSION)
        return -TS_EPROTO;
    if (TS_READ(header, TS_IMAGE_HEADER_LENGTH) != size || size % 4 || size > device->code_bytes)
        return -TS_EINVAL;
    if (TS_READ(header, TS_IMAGE_HEADER_CRC32) != crc32(body, size))
        return -TS_EINVAL;
    device->failed = true;
    write_register(device, TS_ENGINE_RESET_CORES, all_cores(device));
    uint32_t refused = read_register(device, TS_ENGINE_CODE_REFUSED);
    write_register(device, TS_ENGINE_CODE_ADDRESS, 0);
    for (size_t i = 0; i < size; i += 4)
        write_register(device, TS_ENGINE_CODE_DATA, get32(&body[i]));
    return read_register(device, TS_ENGINE_CODE_REFUSED) == refused ? 0 : -TS_EIO;
}

/* End all that is under way: nobody will complete it. */
static void drop_pending(ts_device *device)
{
    while (device->pending) {
        ts_operation *operation = device->pending;
        device->pending = operation->next;
        operation->result = -TS_ECANCELED;
        operation->done = true;
        if (operation->on_done)
            operation->on_done(device, operation);
    }
}

static void set_up_queue(ts_device *device)
{
    uint32_t zero[16] = {0};
    write_register(device, TS_QUEUE_CONTROL(0), 0);
    device->failed = true; /* what the callbacks submit is refused */
    drop_pending(device);
    for (uint32_t at = device->cq_base; at < device->results; at += 16)
        ts_write_words(device, at, zero, 4);
    barrier(device);
    device->sq_tail = device->cq_head = 0;
    write_register(device, TS_QUEUE_SQ_BASE(0), device->sq_base);
    write_register(device, TS_QUEUE_CQ_BASE(0), device->cq_base);
    write_register(device, TS_QUEUE_IRQ(0), 0);
    write_register(device, TS_QUEUE_SQ_TAIL(0), 0);
    write_register(device, TS_QUEUE_CQ_HEAD(0), 0);
    write_register(device, TS_QUEUE_CONTROL(0),
                   TS_PUT(TS_QUEUE_CONTROL_SQ_LOG2, device->memory.sq_log2) |
                       TS_PUT(TS_QUEUE_CONTROL_CQ_LOG2, device->memory.cq_log2) |
                       TS_PUT(TS_QUEUE_CONTROL_IRQ_ENABLE, 1) | TS_PUT(TS_QUEUE_CONTROL_ENABLE, 1));
    device->failed = false;
}

int ts_start(ts_device *device, uint32_t seed)
{
    write_register(device, TS_ENGINE_RESET_CORES, all_cores(device));
    write_register(device, TS_ENGINE_SEED, seed ? seed : 1u);
    uint32_t key = 0;
    for (uint32_t i = 0; i < 10; i++)
        key |= read_register(device, TS_HOST_VIEW(TS_DISPATCH_KEY(i)));
    for (uint32_t i = 0; i < 10 && !key; i++)
        write_register(device, TS_HOST_VIEW(TS_DISPATCH_KEY(i)), get32(&default_key[4 * i]));
    write_register(device, TS_WINDOW_BASE(0), device->results);
    write_register(device, TS_WINDOW_LIMIT(0), device->memory.base + device->memory.bytes - 1);
    write_register(device, TS_WINDOW_CONTROL(0), TS_WINDOW_CONTROL_READ_MASK | TS_WINDOW_CONTROL_WRITE_MASK);
    set_up_queue(device);
    write_register(device, TS_ENGINE_RESET_CORES, 0);
    uint32_t began = now_ms(device);
    while (read_register(device, TS_ENGINE_ALIVE) != all_cores(device)) {
        for (uint32_t core = 0; core < device->cores; core++) {
            uint32_t firmware =
                TS_GET(read_register(device, TS_HOST_CORE_STATUS(core)), TS_HOST_CORE_STATUS_FIRMWARE_ABI);
            if (firmware && firmware != TS_ABI_VERSION)
                return -TS_EPROTO;
        }
        if (is_broken(device))
            return -TS_EIO;
        if (expired(device, began, device->timeout_ms))
            return -TS_ETIMEDOUT;
        relax(device);
    }
    return 0;
}

int ts_attach(ts_device *device)
{
    if (read_register(device, TS_ENGINE_ALIVE) != all_cores(device))
        return -TS_ENODEV;
    set_up_queue(device);
    return 0;
}

void ts_stop(ts_device *device)
{
    write_register(device, TS_ENGINE_RESET_CORES, all_cores(device));
    write_register(device, TS_QUEUE_CONTROL(0), 0);
    device->failed = true;
    drop_pending(device);
}

int ts_set_window(ts_device *device, unsigned number, uint32_t base, uint32_t bytes, bool may_read,
                  bool may_write)
{
    if (number < 1 || number > 3 || (bytes && bytes - 1 > 0xFFFFFFFFu - base))
        return -TS_EINVAL;
    write_register(device, TS_WINDOW_CONTROL(number), 0);
    if (bytes) {
        write_register(device, TS_WINDOW_BASE(number), base);
        write_register(device, TS_WINDOW_LIMIT(number), base + (bytes - 1));
        write_register(device, TS_WINDOW_CONTROL(number),
                       (may_read ? TS_WINDOW_CONTROL_READ_MASK : 0) |
                           (may_write ? TS_WINDOW_CONTROL_WRITE_MASK : 0));
    }
    return 0;
}

int ts_console(ts_device *device, unsigned core, char *text, size_t length)
{
    if (core >= device->cores || length > 0x7FFFFFFFu)
        return -TS_EINVAL;
    size_t count = 0;
    while (count < length) {
        uint32_t word = read_register(device, TS_HOST_CORE_CONSOLE(core));
        if (!TS_GET(word, TS_HOST_CORE_CONSOLE_VALID))
            break;
        text[count++] = (char)TS_GET(word, TS_HOST_CORE_CONSOLE_DATA);
    }
    return (int)count;
}

/* --- Queue ------------------------------------------------------------------------------------------------------ */

static int post_entry(ts_device *device, const ts_entry *entry, uint64_t user_data)
{
    if (device->failed)
        return -TS_EIO;
    uint32_t began = now_ms(device);
    while ((uint16_t)(device->sq_tail - read_register(device, TS_QUEUE_SQ_HEAD(0))) >=
           1u << device->memory.sq_log2) {
        if (expired(device, began, device->timeout_ms))
            return -TS_EBUSY;
        /* With a full completion ring the engine takes no entries; within a callback the caller's ts_poll goes on. */
        if (device->polling || !ts_poll(device))
            relax(device);
        if (device->failed)
            return -TS_EIO;
    }
    uint32_t words[TS_SQE_WORDS] = {0};
    TS_SET(words, TS_SQE_OPERATION, entry->operation);
    TS_SET(words, TS_SQE_HANDLE, entry->handle);
    words[TS_SQE_USER_DATA_WORD] = (uint32_t)user_data;
    words[TS_SQE_USER_DATA_WORD + 1] = (uint32_t)(user_data >> 32);
    words[TS_SQE_BUFFER_WORD] = entry->buffer;
    TS_SET(words, TS_SQE_LENGTH, entry->length);
    TS_SET(words, TS_SQE_OPERATION_FLAGS, entry->operation_flags);
    memcpy(&words[TS_SQE_INLINE_WORD], entry->inline_words, sizeof entry->inline_words);
    uint32_t slot = device->sq_tail & ((1u << device->memory.sq_log2) - 1u);
    ts_write_words(device, device->sq_base + TS_SQE_BYTES * slot, words, TS_SQE_WORDS);
    barrier(device);
    device->sq_tail++;
    write_register(device, TS_QUEUE_SQ_TAIL(0), device->sq_tail);
    return 0;
}

int ts_submit(ts_device *device, const ts_entry *entry, ts_operation *operation)
{
    operation->done = false;
    operation->result = 0;
    operation->user_data = device->next_user_data++;
    int error = post_entry(device, entry, operation->user_data);
    if (!error) {
        operation->next = device->pending;
        device->pending = operation;
    }
    return error;
}

int ts_submit_detached(ts_device *device, const ts_entry *entry)
{
    return post_entry(device, entry, 0);
}

static ts_operation **find_pending(ts_device *device, uint64_t user_data)
{
    ts_operation **place = &device->pending;
    while (*place && (*place)->user_data != user_data)
        place = &(*place)->next;
    return place;
}

int ts_poll(ts_device *device)
{
    int count = 0;
    if (is_broken(device))
        device->failed = true;
    if (device->failed)
        return 0;
    bool nested = device->polling;
    device->polling = true;
    /* As many as the ring holds at most: what callbacks submit may complete at once. */
    for (uint32_t most = 1u << device->memory.cq_log2; most; most--) {
        uint32_t entries = 1u << device->memory.cq_log2;
        uint32_t phase = 1u ^ ((uint32_t)device->cq_head >> device->memory.cq_log2 & 1u);
        uint32_t words[TS_CQE_WORDS];
        ts_read_words(device, device->cq_base + TS_CQE_BYTES * (device->cq_head & (entries - 1u)), words,
                      TS_CQE_WORDS);
        if (TS_READ(words, TS_CQE_PHASE) != phase)
            break;
        /* The word with the phase bit is written last, but it was read together with the others: read those again. */
        barrier(device);
        ts_read_words(device, device->cq_base + TS_CQE_BYTES * (device->cq_head & (entries - 1u)), words,
                      TS_CQE_WORDS);
        device->cq_head++;
        count++;
        barrier(device);
        write_register(device, TS_QUEUE_CQ_HEAD(0), device->cq_head);
        uint64_t user_data = ts_get64(words, TS_CQE_USER_DATA_WORD);
        int32_t result = (int32_t)TS_READ(words, TS_CQE_RESULT);
        if (!user_data)
            continue; /* detached */
        ts_operation **place = find_pending(device, user_data);
        ts_operation *operation = *place;
        if (!operation) {
            device->unexpected++;
        } else if (TS_READ(words, TS_CQE_MORE)) {
            if (operation->on_more)
                operation->on_more(device, operation, result);
        } else {
            *place = operation->next;
            operation->result = result;
            operation->done = true;
            if (operation->on_done)
                operation->on_done(device, operation);
        }
        if (device->failed)
            break;
    }
    device->polling = nested;
    return count;
}

int ts_wait(ts_device *device, ts_operation *operation, uint32_t timeout_ms)
{
    uint32_t began = now_ms(device);
    for (;;) {
        int taken = ts_poll(device);
        if (operation->done)
            return 0;
        if (device->failed)
            return -TS_EIO;
        if (expired(device, began, timeout_ms))
            return -TS_ETIMEDOUT;
        if (!taken)
            relax(device);
    }
}

int ts_cancel(ts_device *device, const ts_operation *operation)
{
    ts_entry entry = ts_entry_for(TS_OP_CANCEL, 0);
    entry.inline_words[0] = (uint32_t)operation->user_data;
    entry.inline_words[1] = (uint32_t)(operation->user_data >> 32);
    return ts_submit_detached(device, &entry);
}

int32_t ts_call(ts_device *device, const ts_entry *entry, uint32_t timeout_ms)
{
    ts_operation *operation = &device->call;
    if (device->calling)
        return -TS_EBUSY;
    if (device->failed)
        return -TS_EIO;
    int32_t result = ts_submit(device, entry, operation);
    if (result)
        return result;
    device->calling = true;
    result = ts_wait(device, operation, timeout_ms);
    if (!result) {
        result = operation->result;
    } else if (result == -TS_ETIMEDOUT && !ts_cancel(device, operation) &&
               !ts_wait(device, operation, device->timeout_ms)) {
        result = operation->result == -TS_ECANCELED ? -TS_ETIMEDOUT : operation->result;
    } else {
        /* Part of a SEND may be sent, and the rest cannot be: only the end of the connection brings the buffer back. */
        ts_entry end = ts_entry_for(TS_OP_ABORT, entry->handle);
        if (entry->operation == TS_OP_SEND && !ts_submit_detached(device, &end) &&
            !ts_wait(device, operation, device->timeout_ms)) {
            result = operation->result < 0 ? -TS_ETIMEDOUT : operation->result;
        } else {
            device->failed = true; /* the engine may still write where the entry says */
            result = -TS_EIO;
        }
    }
    device->calling = false;
    return result;
}

ts_entry ts_entry_for(uint8_t operation, uint32_t handle)
{
    ts_entry entry;
    memset(&entry, 0, sizeof entry);
    entry.operation = operation;
    entry.handle = handle;
    return entry;
}

int32_t ts_call_for_words(ts_device *device, ts_entry *entry, uint32_t *words, size_t count,
                          uint32_t timeout_ms)
{
    if (!entry->buffer) {
        entry->buffer = device->results;
        entry->length = (uint32_t)(4 * count);
    }
    int32_t result = ts_call(device, entry, timeout_ms);
    if (result >= 0) {
        barrier(device);
        ts_read_words(device, device->results, words, count);
    }
    return result;
}
