/* The echo service as a program of a POSIX system: echo PATH PORT CONNECTIONS, on the engine that somebody serves at PATH. */
#include "twinstack_link.h"

#include <stdio.h>
#include <stdlib.h>

int echo_serve(ts_device *device, uint16_t port, unsigned connections);

int main(int count, char **arguments)
{
    static ts_link link;
    static ts_device device;
    ts_hal hal;
    if (count != 4) {
        fprintf(stderr, "usage: %s PATH PORT CONNECTIONS\n", arguments[0]);
        return 2;
    }
    int error = ts_link_open(&link, arguments[1], &hal);
    if (!error) {
        ts_memory memory = {link.memory_base, link.memory_bytes, 4, 6};
        error = ts_open(&device, &hal, &memory);
    }
    if (!error)
        error = ts_attach(&device);
    if (!error)
        error = echo_serve(&device, (uint16_t)strtoul(arguments[2], NULL, 10),
                           (unsigned)strtoul(arguments[3], NULL, 10));
    ts_link_close(&link);
    if (error)
        fprintf(stderr, "echo: error %d\n", -error);
    return error ? 1 : 0;
}
