/* An echo service, for a program that has started its device and configured a network port. */
#include "twinstack.h"
#include "twinstack_abi.h"

#define CONNECTIONS 8

/* Serve one connection after the other at TCP `port`, `connections` of them; returns 0 or the error that ended it. */
int echo_serve(ts_device *device, uint16_t port, unsigned connections);

int echo_serve(ts_device *device, uint16_t port, unsigned connections)
{
    ts_listener listener;
    uint32_t queue[CONNECTIONS];
    ts_address any = ts_ipv4(0, 0, 0, 0, port);
    int error = ts_listen(device, &listener, &any, CONNECTIONS, 0, queue, CONNECTIONS);
    if (error)
        return error;
    while (!error && connections--) {
        int32_t handle = ts_accept(device, &listener, TS_FOREVER);
        if (handle < 0) {
            error = handle;
            break;
        }
        uint8_t data[2048];
        int32_t length;
        while ((length = ts_recv(device, (uint32_t)handle, data, sizeof data, TS_FOREVER)) > 0)
            if (ts_send(device, (uint32_t)handle, data, (size_t)length, TS_FOREVER) != length)
                break;
        ts_close(device, (uint32_t)handle, device->timeout_ms);
    }
    int closed = ts_listener_close(device, &listener);
    return error ? error : closed;
}
