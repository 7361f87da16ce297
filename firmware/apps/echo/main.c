/* A second program on the same drivers: TCP echo on port 7, on every core, without a host.
 *
 * What arrives is sent from the RX bank it lies in; its buffers go back when the peer has acknowledged the
 * echo. */
#include "stack.h"
#include "lwip/tcp.h"

#define ECHO_PORT    7u  /* RFC 862 */
#define PREFIX       24u /* 10.0.<port>.2/24 */
#define BACKLOG      4
#define HELD_ENTRIES 96u

/* Frames whose payload is in flight; all connections share the table, the RX bank bounds it. */
struct held {
    struct tcp_pcb *pcb;
    struct pbuf *p;
    uint16_t unacknowledged;
};

static struct stack stack;
static struct held held[HELD_ENTRIES];
static uint32_t held_count;

static void drop_first_of(struct tcp_pcb *pcb, u16_t length)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < held_count; i++) {
        if (held[i].pcb == pcb && (length != 0u || held[i].unacknowledged == 0u)) {
            u16_t part = LWIP_MIN(length, held[i].unacknowledged);
            held[i].unacknowledged = (uint16_t)(held[i].unacknowledged - part);
            length = (u16_t)(length - part);
            if (held[i].unacknowledged == 0u) {
                pbuf_free(held[i].p);
                continue;
            }
        }
        held[kept++] = held[i];
    }
    held_count = kept;
}

static void on_error(void *context, err_t error)
{
    struct tcp_pcb *pcb = context;
    (void)error;
    for (uint32_t i = 0; i < held_count; i++) {
        held[i].unacknowledged = held[i].pcb == pcb ? 0u : held[i].unacknowledged;
    }
    drop_first_of(pcb, 0u);
}

static err_t on_sent(void *context, struct tcp_pcb *pcb, u16_t length)
{
    (void)context;
    drop_first_of(pcb, length);
    tcp_recved(pcb, length);
    return ERR_OK;
}

static err_t on_received(void *context, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
    (void)context;
    (void)error;
    if (p == NULL) {
        pcb->rcv_wnd = TCP_WND; /* tcp_close() would reset instead while an echo is unacknowledged */
        return tcp_close(pcb);
    }
    while (p != NULL) {
        struct pbuf *next = p->next;
        p->next = NULL;
        p->tot_len = p->len;
        const void *data = uncached(rx_payload_address(&stack.rx, p));
        if (held_count == HELD_ENTRIES || tcp_write(pcb, data, p->len, 0) != ERR_OK) {
            pbuf_free(p);
            if (next != NULL) {
                pbuf_free(next);
            }
            tcp_abort(pcb); /* what is acknowledged must be echoed, or the peer must know */
            return ERR_ABRT;
        }
        held[held_count++] = (struct held){pcb, p, p->len};
        p = next;
    }
    tcp_output(pcb);
    return ERR_OK;
}

static err_t on_accept(void *context, struct tcp_pcb *pcb, err_t error)
{
    (void)context;
    if (pcb == NULL || error != ERR_OK) {
        return ERR_VAL;
    }
    tcp_arg(pcb, pcb);
    tcp_err(pcb, on_error);
    tcp_recv(pcb, on_received);
    tcp_sent(pcb, on_sent);
    return ERR_OK;
}

static int listen(void)
{
    struct tcp_pcb *pcb = tcp_new();
    if (pcb == NULL || tcp_bind(pcb, IP_ADDR_ANY, ECHO_PORT) != ERR_OK) {
        return -E_NOMEM;
    }
    pcb = tcp_listen_with_backlog(pcb, BACKLOG);
    if (pcb == NULL) {
        return -E_NOMEM;
    }
    tcp_accept(pcb, on_accept);
    return 0;
}

int main(void)
{
    static const struct program program;
    if (boot_check() != 0 || stack_init(&stack) != 0 || listen() != 0) {
        boot_failed();
        return 1;
    }
    for (uint32_t port = 0; port < stack.ports; port++) {
        struct port_config config = {
            .address = lwip_htonl(0x0A000002u | port << 8),
            .prefix_length = PREFIX,
            .mac = {0x02, 0x54, 0x53, 0x00, 0x00, (uint8_t)port}, /* locally administered */
        };
        ports_configure(&stack, port, &config);
    }
    console_printf("core %u: echo on port %u of 10.0.n.2\n", stack.core, ECHO_PORT);
    boot_ready();
    executive_run(&stack, &program);
}
