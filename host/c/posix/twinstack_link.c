#define _POSIX_C_SOURCE 200809L
#include "twinstack_link.h"
#include "twinstack_abi.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* The same numbers as in host/twinstack_host/link_protocol.py; tests compare them by talking to it. */
#define LINK_MAGIC     0x4B4C5354u
#define LINK_VERSION   1u
#define HEADER_BYTES   8u
#define MOST_DATA      65536u
#define MOST_TEXT      516u
#define ANSWER_SECONDS 30

enum { LINK_HELLO = 1, LINK_CSR_READ, LINK_CSR_WRITE, LINK_READ, LINK_WRITE, LINK_WAIT, LINK_CLOCK };

static void put(uint8_t *bytes, uint64_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get(const uint8_t *bytes, unsigned count)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < count; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static bool send_all(ts_link *link, const void *data, size_t length)
{
    const uint8_t *bytes = data;
    while (length) {
        ssize_t sent = send(link->socket, bytes, length, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        bytes += sent;
        length -= (size_t)sent;
    }
    return true;
}

static bool receive_all(ts_link *link, void *data, size_t length)
{
    uint8_t *bytes = data;
    while (length) {
        struct pollfd ready = {link->socket, POLLIN, 0};
        if (poll(&ready, 1, ANSWER_SECONDS * 1000) <= 0)
            return false;
        ssize_t got = recv(link->socket, bytes, length, 0);
        if (got <= 0)
            return false;
        bytes += got;
        length -= (size_t)got;
    }
    return true;
}

/* One request with a body of `head` and `data`, and its reply of `expected` bytes. 0, or the negative errno of the refusal. */
static int request(ts_link *link, unsigned operation, const uint8_t *head, size_t head_bytes,
                   const void *data, size_t data_bytes, void *reply, size_t expected)
{
    uint8_t header[HEADER_BYTES];
    if (link->broken)
        return -TS_EIO;
    put(header, head_bytes + data_bytes, 4);
    put(header + 4, ++link->number, 2);
    header[6] = (uint8_t)operation;
    header[7] = 0;
    /* Even if it cannot be sent, why the server has closed may have come. */
    bool sent = send_all(link, header, sizeof header) && send_all(link, head, head_bytes) &&
                send_all(link, data, data_bytes);
    if (receive_all(link, header, sizeof header)) {
        size_t length = (size_t)get(header, 4);
        if (header[7] == 0 && sent && length == expected && header[6] == operation &&
            get(header + 4, 2) == link->number) {
            if (receive_all(link, reply, expected))
                return 0;
        } else if (header[7] != 0 && length >= 4 && length <= MOST_TEXT) {
            uint8_t text[MOST_TEXT];
            if (receive_all(link, text, length)) {
                link->broken = header[7] != 1;
                return -(int)(get(text, 4) & 0xFFFu);
            }
        }
    }
    link->broken = true;
    return -TS_EIO;
}

static uint32_t read32(void *context, uint32_t offset)
{
    uint8_t body[4], value[4];
    put(body, offset, 4);
    return request(context, LINK_CSR_READ, body, 4, NULL, 0, value, 4) ? 0xFFFFFFFFu
                                                                       : (uint32_t)get(value, 4);
}

static void write32(void *context, uint32_t offset, uint32_t value)
{
    uint8_t body[8];
    put(body, offset, 4);
    put(body + 4, value, 4);
    request(context, LINK_CSR_WRITE, body, 8, NULL, 0, NULL, 0);
}

static void read_memory(void *context, uint32_t address, void *to, size_t length)
{
    for (size_t done = 0, piece; done < length; done += piece) {
        uint8_t body[12];
        piece = length - done < MOST_DATA ? length - done : MOST_DATA;
        put(body, (uint64_t)address + done, 8);
        put(body + 8, piece, 4);
        if (request(context, LINK_READ, body, 12, NULL, 0, (uint8_t *)to + done, piece))
            memset((uint8_t *)to + done, 0, piece);
    }
}

static void write_memory(void *context, uint32_t address, const void *from, size_t length)
{
    for (size_t done = 0, piece; done < length; done += piece) {
        uint8_t body[8];
        piece = length - done < MOST_DATA ? length - done : MOST_DATA;
        put(body, (uint64_t)address + done, 8);
        request(context, LINK_WRITE, body, 8, (const uint8_t *)from + done, piece, NULL, 0);
    }
}

/* The engine's time; without it that of the system, so that what waits ends. */
static uint32_t milliseconds(void *context)
{
    uint8_t value[8];
    if (!request(context, LINK_CLOCK, NULL, 0, NULL, 0, value, 8))
        return (uint32_t)(get(value, 8) / 1000000u);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u);
}

static void wait_interrupt(void *context, uint32_t time_ms)
{
    uint8_t body[8], answer[12];
    put(body, (uint64_t)time_ms * 1000000u, 8);
    request(context, LINK_WAIT, body, 8, NULL, 0, answer, 12);
}

static bool broken(void *context)
{
    return ((const ts_link *)context)->broken;
}

int ts_link_open(ts_link *link, const char *path, ts_hal *hal)
{
    struct sockaddr_un address;
    uint8_t hello[12], welcome[28];
    memset(link, 0, sizeof *link);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    link->broken = true;
    link->socket = -1;
    if (strlen(path) >= sizeof address.sun_path)
        return -TS_EINVAL;
    memcpy(address.sun_path, path, strlen(path));
    link->socket = socket(AF_UNIX, SOCK_STREAM, 0);
    if (link->socket < 0)
        return -TS_EIO;
    if (connect(link->socket, (const struct sockaddr *)&address, sizeof address)) {
        ts_link_close(link);
        return -TS_ENODEV;
    }
    link->broken = false;
    put(hello, LINK_MAGIC, 4);
    put(hello + 4, LINK_VERSION, 4);
    put(hello + 8, TS_ABI_VERSION, 4);
    int error = request(link, LINK_HELLO, hello, sizeof hello, NULL, 0, welcome, sizeof welcome);
    if (!error && (get(welcome + 12, 8) > 0xFFFFFFFFu || get(welcome + 20, 8) > 0xFFFFFFFFu))
        error = -TS_EIO;
    if (error) {
        ts_link_close(link);
        return error;
    }
    link->memory_base = (uint32_t)get(welcome + 12, 8);
    link->memory_bytes = (uint32_t)get(welcome + 20, 8);
    ts_hal functions = {link,         read32,         write32, read_memory, write_memory,
                        milliseconds, wait_interrupt, NULL,    broken};
    *hal = functions;
    return 0;
}

void ts_link_close(ts_link *link)
{
    if (link->socket >= 0)
        close(link->socket);
    link->socket = -1;
    link->broken = true;
}
