/* Data of a socket between host memory, packet memory and lwIP. The CPU touches no payload byte. */
#include "service.h"
#include "lwip/priv/tcp_priv.h"

/* --- Sending: host memory -> TX buffer by DMA -> TCP by reference; the buffer is freed when acknowledged ---
 */

static struct service *instance; /* an operation does not know it */

void transfer_init(struct service *service)
{
    instance = service;
}

static uint32_t index_of(const struct piece *piece)
{
    return (uint32_t)(piece - piece->socket->service->pieces);
}

static void free_piece(struct service *service, struct piece *piece)
{
    service->in_flight -= piece->state == PIECE_WRITTEN ? 1u : 0u;
    piece->state = PIECE_FREE;
    bank_give(&service->stack->bank, (uint32_t)(piece - service->pieces));
}

static void pop_piece(struct socket *socket)
{
    struct piece *piece = socket->pieces;
    socket->pieces = piece->next;
    socket->last_piece = socket->pieces == NULL ? NULL : socket->last_piece;
    socket->piece_count--;
    free_piece(socket->service, piece);
}

/* Part of a SEND is missing: nothing after it may be sent. */
static void stop_sending(struct socket *socket)
{
    struct service *service = socket->service;
    socket->broken = true;
    socket->fin_wanted = false;
    op_finish_all(service, &socket->sends, -E_PIPE);
    if (socket->shutdown != NULL) {
        op_finish(service, socket->shutdown, -E_PIPE);
        socket->shutdown = NULL;
    }
}

static void on_copied(void *context, void *item, uint32_t length, int error)
{
    struct service *service = context;
    struct piece *piece = item;
    struct op *op = piece->op;
    struct socket *socket = piece->socket;
    piece->op = NULL;
    service->bytes_out += error == 0 ? length : 0u;
    if (error != 0 && !op->finished && op->socket != NULL) {
        op_remove(&op->socket->sends, op);
        op_finish(service, op, error); /* posted when its other transfers have ended */
        stop_sending(socket);
    }
    bool failed = op->finished && op->result < 0;
    op->done += length;
    if (!op->finished && op->done == op->length) {
        op_remove(&socket->sends, op);
        op->transfers--;
        op_finish(service, op, (int32_t)op->length);
    } else {
        op_transferred(service, op);
    }
    if (socket == NULL) {
        free_piece(service, piece);
        return;
    }
    piece->state = failed ? PIECE_FAILED : PIECE_READY;
    transfer_pump_send(socket);
}

/* Fetch what the SENDs of a socket still have in host memory, as far as buffers allow. */
static void fetch(struct socket *socket)
{
    struct service *service = socket->service;
    struct stack *stack = service->stack;
    uint32_t share = (TX_BUFFERS - 1u) / LWIP_MAX(service->senders, 1u);
    uint32_t reserve = LWIP_MIN(service->open - 1u, TX_FIRST_RESERVE);
    share = LWIP_MIN(LWIP_MAX(share, 1u), socket->sndbuf);
    uint32_t whole = IP_IS_V6(&socket->pcb->remote_ip) ? TCP_MSS - (IP6_HLEN - IP_HLEN) : TCP_MSS;
    for (struct op *op = socket->sends.head; op != NULL; op = op->next) {
        while (op->submitted < op->length) {
            if (socket->piece_count >= share ||
                (socket->piece_count != 0u && stack->bank.free_count <= reserve)) {
                return; /* an acknowledgement will bring us back */
            }
            if (dma_space(&stack->dma_in) == 0u) {
                socket->attention = true;
                return;
            }
            int index = bank_take(&stack->bank);
            if (index < 0) {
                socket->attention = true;
                return;
            }
            uint32_t length = LWIP_MIN(op->length - op->submitted, whole);
            struct piece *piece = &service->pieces[index];
            *piece = (struct piece){
                .socket = socket, .op = op, .length = (uint16_t)length, .state = PIECE_COPYING};
            if (socket->last_piece == NULL) {
                socket->pieces = piece;
            } else {
                socket->last_piece->next = piece;
            }
            socket->last_piece = piece;
            socket->piece_count++;
            op->transfers++;
            dma_submit(&stack->dma_in, bank_address((uint32_t)index), op->buffer + op->submitted,
                       (uint16_t)length, op->host, on_copied, service, piece);
            op->submitted += length;
        }
    }
}

/* A segment that is not full takes no more pieces than the TX engine can gather. */
static bool tail_is_crowded(const struct tcp_pcb *pcb)
{
    const struct tcp_seg *segment = pcb->unsent;
    while (segment != NULL && segment->next != NULL) {
        segment = segment->next;
    }
    return segment != NULL && pbuf_clen(segment->p) >= TS_MAX_GATHER;
}

/* Remove pieces whose DMA failed, wherever they stand. */
static void drop_failed(struct socket *socket)
{
    struct piece **link = &socket->pieces;
    struct piece *last = NULL;
    while (*link != NULL) {
        struct piece *piece = *link;
        if (piece->state == PIECE_FAILED) {
            *link = piece->next;
            socket->piece_count--;
            free_piece(socket->service, piece);
        } else {
            last = piece;
            link = &piece->next;
        }
    }
    socket->last_piece = last;
}

/* Hand copied pieces to TCP in stream order; true if none is left behind. */
static bool write_pieces(struct socket *socket)
{
    struct service *service = socket->service;
    bool written = false, all = true;
    for (struct piece *piece = socket->pieces; piece != NULL; piece = piece->next) {
        if (piece->state == PIECE_WRITTEN) {
            continue;
        }
        all = false;
        if (piece->state != PIECE_READY) {
            break;
        }
        /* Each segment brings an acknowledgement, which takes an RX buffer. */
        if ((service->in_flight >= TX_IN_FLIGHT && socket->pieces->state == PIECE_WRITTEN) ||
            tail_is_crowded(socket->pcb) ||
            tcp_write(socket->pcb, uncached(bank_address(index_of(piece))), piece->length, 0) != ERR_OK) {
            socket->attention = true;
            break;
        }
        piece->state = PIECE_WRITTEN;
        service->in_flight++;
        written = true;
        all = true;
    }
    if (written) {
        tcp_output(socket->pcb);
    }
    return all;
}

/* FIN after the last byte. A closed socket keeps its PCB's callbacks until all of its buffers are
 * acknowledged. */
static void finish_sending(struct socket *socket)
{
    struct tcp_pcb *pcb = socket->pcb;
    if (!socket->fin_sent) {
        if (socket->state != SOCKET_LINGER ||
            socket->shutdown != NULL) { /* lwIP tells when it is acknowledged */
            if (tcp_shutdown(pcb, 0, 1) == ERR_OK) {
                socket->fin_sent = true;
            } else {
                socket->attention = true;
            }
            return;
        }
        if (socket->pieces != NULL) {
            socket->fin_sent = true;
            tcpwnd_size_t window = pcb->rcv_wnd;
            pcb->rcv_wnd = TCP_WND; /* otherwise tcp_close() takes it for unread data and resets */
            tcp_close(pcb);
            pcb->rcv_wnd = window;
            return;
        }
    }
    if (socket->state == SOCKET_LINGER && socket->pieces == NULL && socket->shutdown == NULL) {
        pcb->rcv_wnd = TCP_WND;
        socket_release(socket, -E_CANCELED);
        tcp_close(pcb);
    }
}

void transfer_pump_send(struct socket *socket)
{
    if (socket->pcb == NULL || (socket->state != SOCKET_OPEN && socket->state != SOCKET_LINGER)) {
        return;
    }
    while (socket->sends.head != NULL && socket->sends.head->length == 0u) {
        struct op *op = socket->sends.head;
        op_remove(&socket->sends, op);
        op_finish(socket->service, op, 0);
    }
    drop_failed(socket);
    fetch(socket);
    if (write_pieces(socket) && socket->fin_wanted && socket->sends.head == NULL) {
        finish_sending(socket);
    }
}

void transfer_acknowledged(struct socket *socket, u16_t length)
{
    while (length != 0u && socket->pieces != NULL && socket->pieces->state == PIECE_WRITTEN) {
        struct piece *piece = socket->pieces;
        uint16_t part = LWIP_MIN(length, (uint16_t)(piece->length - piece->acknowledged));
        piece->acknowledged = (uint16_t)(piece->acknowledged + part);
        length = (u16_t)(length - part);
        if (piece->acknowledged == piece->length) {
            pop_piece(socket);
        }
    }
}

/* What DMA still writes is freed by its completion. */
void transfer_drop_pieces(struct socket *socket)
{
    while (socket->pieces != NULL) {
        struct piece *piece = socket->pieces;
        if (piece->state == PIECE_COPYING) {
            socket->pieces = piece->next;
            piece->socket = NULL;
        } else {
            pop_piece(socket);
        }
    }
    socket->last_piece = NULL;
    socket->piece_count = 0;
}

/* --- Receiving: RX buffer -> host memory by DMA, straight from where the frame lies --- */

static void complete_receives(struct socket *socket)
{
    struct service *service = socket->service;
    for (struct op *op = socket->receives.head; op != NULL; op = socket->receives.head) {
        bool filled = op->transfers == 0u && (op->submitted != 0u || op->length == 0u);
        bool ended = op->submitted == 0u && socket->rx_head == NULL && (socket->eof || socket->error != 0u);
        if (!filled && !ended) {
            break;
        }
        op_remove(&socket->receives, op);
        op_finish(service, op, filled ? (int32_t)op->done : socket->eof ? 0 : -socket->error);
    }
}

static void on_delivered(void *context, void *item, uint32_t length, int error)
{
    struct op *op = context;
    struct service *service = instance;
    struct socket *socket = op->socket;
    struct pbuf *p = item;
    service->bytes_in += error == 0 ? length : 0u;
    service->windows_due = true;
    op->done += length;
    if (p != NULL) {
        pbuf_free(p); /* this was its last byte */
        if (socket != NULL) {
            socket->rx_held--;
        }
    }
    if (error != 0 && socket != NULL) {
        op_remove(&socket->receives, op);
        op_finish(service, op, error);
    }
    op_transferred(service, op);
    if (socket != NULL) {
        transfer_pump_receive(socket);
    }
}

/* Move received bytes into the posted RECVs; false if the DMA queue is full. */
static bool deliver(struct socket *socket)
{
    struct stack *stack = socket->service->stack;
    struct op *op = socket->receives.head;
    while (socket->rx_head != NULL) {
        while (op != NULL && op->submitted == op->length) {
            op = op->next;
        }
        if (op == NULL) {
            return true;
        }
        if (dma_space(&stack->dma_out) == 0u || op->transfers == UINT8_MAX) {
            return false;
        }
        struct pbuf *p = socket->rx_head;
        uint32_t length = LWIP_MIN((uint32_t)p->len, op->length - op->submitted);
        uint32_t address = rx_payload_address(&stack->rx, p);
        bool last = length == p->len;
        if (last) {
            socket->rx_head = p->next;
            socket->rx_tail = socket->rx_head == NULL ? NULL : socket->rx_tail;
            p->next = NULL;
        } else {
            pbuf_remove_header(p, length);
        }
        op->transfers++;
        dma_submit(&stack->dma_out, address, op->buffer + op->submitted, (uint16_t)length, op->host,
                   on_delivered, op, last ? p : NULL);
        op->submitted += length;
        socket->rx_bytes -= length;
    }
    return true;
}

void transfer_pump_receive(struct socket *socket)
{
    if (socket->state != SOCKET_OPEN) {
        return;
    }
    if (!deliver(socket)) {
        socket->attention = true;
    }
    complete_receives(socket);
}

void transfer_drop_received(struct socket *socket)
{
    while (socket->rx_head != NULL) {
        struct pbuf *p = socket->rx_head;
        socket->rx_head = p->next;
        p->next = NULL;
        pbuf_free(p);
    }
    socket->rx_tail = NULL;
    socket->rx_bytes = 0;
    socket->rx_held = 0;
}
