/* Flow table entries of connections: a passive one gets its entry with the last segment of the handshake, an active
 * one before its SYN leaves; both lose it when lwIP frees the PCB, after TIME_WAIT or a reset. The number of the entry
 * is kept in the PCB's extension, whose callback is the only place where lwIP tells that. */
#include "service.h"

static uint8_t extension; /* lwIP's number for it */
static struct service *instance;

static void on_destroyed(u8_t id, void *data)
{
    (void)id;
    if (data != NULL) {
        instance->flow.used--;
        instance->flow.errors += flow_delete((uint16_t)((uintptr_t)data - 1u)) != 0 ? 1u : 0u;
    }
}

static const struct tcp_ext_arg_callbacks of_connection = {.destroy = on_destroyed};

static err_t on_passive_open(u8_t id, struct tcp_pcb_listen *listening, struct tcp_pcb *pcb)
{
    const struct listener *listener = listening->callback_arg;
    (void)id;
    options_to_pcb(&listener->options, pcb);
    flow_track(pcb);
    window_start(pcb);
    return ERR_OK;
}

/* The table holds nothing of this core: its reset has removed what there was. */
void flow_init(struct service *service)
{
    instance = service;
    extension = tcp_ext_arg_alloc_id(); /* 0, the only one: flow_has() */
}

/* Call before tcp_listen(): what connects gets its window already in the SYN/ACK. */
void flow_listen(struct tcp_pcb *pcb)
{
    static const struct tcp_ext_arg_callbacks callbacks = {.passive_open = on_passive_open};
    tcp_ext_arg_set_callbacks(pcb, extension, &callbacks);
}

void flow_track(struct tcp_pcb *pcb)
{
    tcp_ext_arg_set_callbacks(pcb, extension, &of_connection);
}

static void keep(struct tcp_pcb *pcb, uint16_t index)
{
    instance->flow.used++;
    tcp_ext_arg_set(pcb, extension, (void *)((uintptr_t)index + 1u));
}

void flow_leave(struct tcp_pcb *pcb)
{
    on_destroyed(extension, tcp_ext_arg_get(pcb, extension));
    tcp_ext_arg_set(pcb, extension, NULL);
}

static void count_full(void)
{
    uint32_t count = ++instance->flow.full;
    if ((count & (count - 1u)) == 0u) {
        console_printf("core %u: flow table full, %u connections go by hash\n",
                       (uint32_t)instance->stack->core, count);
    }
}

/* Enter a connection with the last segment of its handshake. With a full table the hash, which brought it here, must
 * do. False: another core owns the flow, and its segments will not come here. */
bool flow_accept(struct tcp_pcb *pcb)
{
    uint16_t index;
    uint32_t core;
    int error = flow_insert(&pcb->remote_ip, &pcb->local_ip, pcb->remote_port, pcb->local_port, &index);
    if (error == -E_EXIST) {
        error =
            flow_lookup(&pcb->remote_ip, &pcb->local_ip, pcb->remote_port, pcb->local_port, &index, &core);
        if (error == 0 && core != instance->stack->core) {
            instance->flow.clashes++;
            return false;
        }
    }
    if (error == 0) {
        keep(pcb, index);
    } else {
        count_full();
    }
    return true;
}

/* Enter an active connection. 0 if its segments will come here; -E_EXIST if not: try another port; or -E_IO. With a
 * full table the hash decides. */
int flow_open(struct tcp_pcb *pcb, const ip_addr_t *remote, const ip_addr_t *local, uint16_t remote_port,
              uint16_t local_port)
{
    uint16_t index;
    uint32_t core = 0;
    int error = flow_insert(remote, local, remote_port, local_port, &index);
    if (error == 0) {
        keep(pcb, index);
    } else if (error != -E_NOSPC) {
        instance->flow.clashes += error == -E_EXIST ? 1u : 0u;
        return error;
    }
    bool full = error != 0;
    error = probe_tuple(remote, local, remote_port, local_port, true, &core);
    if (error == 0 && core != instance->stack->core) {
        error = -E_EXIST;
    }
    if (error != 0) {
        flow_leave(pcb);
    } else if (full) {
        count_full();
    }
    return error;
}
