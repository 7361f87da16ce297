/* Datagram sockets: life cycle, operations, errors. An ordinary one lives on one core; a spread one on all, like a
 * listener: every core gets its operations in the same order and numbers it alike. The first core to come to a spread
 * UDP_OPEN decides for all, in a word of the shared memory. */
#include "service.h"
#include "lwip/ip.h"
#include <string.h>

#define PORT_FIRST    49152u /* RFC 6335 6: dynamic ports */
#define PORT_MASK     16383u
#define PORT_DHCP     68u
#define PORT_TRIES    256u
#define MULTICAST_TTL 1u  /* RFC 1112 6.1 */
#define DEFAULT_TTL   64u /* RFC 1700 */
#define SPREAD(i)     ((i) >= UDP_SOCKETS)

/* Fate of a spread socket, by slot: generation, error number, and that there is one. */
#define FATE(generation, error) ((uint32_t)(generation) | (uint32_t)(error) << 16 | 1u << 31)
#define FATE_GENERATION(word)   ((word)&0xFFFFu)
#define FATE_ERROR(word)        ((word) >> 16 & 0xFFu)

enum { MESSAGE_UNREACHABLE = 32 };

static volatile uint32_t *fate_of(uint32_t slot)
{
    return (volatile uint32_t *)uncached(SHARED_SPREAD) + slot;
}

static uint32_t index_of(const struct datagram *socket)
{
    return (uint32_t)(socket - socket->service->udp.sockets);
}

void udp_service_init(struct service *service)
{
    udp_transfer_init(service);
    service->stack->unreachable = udp_unreachable;
    service->stack->unreachable_context = service;
    for (uint32_t i = 0; i < UDP_SPREAD; i++) {
        *fate_of(i) = 0u;
    }
}

uint32_t udp_handle(const struct datagram *socket)
{
    uint32_t index = index_of(socket);
    return socket->spread
               ? handle_pack(TS_ALL_CORES, socket->host, LISTENERS + index - UDP_SOCKETS, socket->generation)
               : handle_pack(socket->service->stack->core, socket->host, SOCKETS + index, socket->generation);
}

struct datagram *udp_of_handle(struct service *service, uint32_t handle, uint8_t host)
{
    bool spread = TS_GET(handle, TS_HANDLE_CORE) == TS_ALL_CORES;
    uint32_t index = TS_GET(handle, TS_HANDLE_INDEX) - (spread ? LISTENERS : SOCKETS);
    if (index >= (spread ? UDP_SPREAD : UDP_SOCKETS)) {
        return NULL;
    }
    struct datagram *socket = &service->udp.sockets[index + (spread ? UDP_SOCKETS : 0u)];
    return socket->used && socket->host == host && udp_handle(socket) == handle ? socket : NULL;
}

/* Whether an address is one of the interfaces'; a link-local one may get its scope. */
static bool is_local(const struct stack *stack, ip_addr_t *address)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        ip_addr_t candidate = *address;
        if (IP_IS_V6(address) && ip6_addr_lacks_zone(ip_2_ip6(address), IP6_UNICAST)) {
            ip6_addr_assign_zone(ip_2_ip6(&candidate), IP6_UNICAST, &stack->netifs[port]);
        }
        if (netif_is_up(&stack->netifs[port]) && ports_has_address(&stack->netifs[port], &candidate)) {
            *address = candidate;
            return true;
        }
    }
    return false;
}

/* Take a local port on the network side: in the directory of all cores, then in the dispatcher's table. */
static int take_port(struct stack *stack, uint16_t port, bool spread)
{
    enum directory_kind kind = spread ? DIRECTORY_SPREAD : DIRECTORY_UDP;
    int error = directory_take(stack, kind, port);
    if (error != 0) {
        return error;
    }
    error = udp_port_add(port, spread);
    if (error != 0) {
        directory_release(stack, kind, port);
    }
    return error == -E_EXIST ? -E_ADDRINUSE : error;
}

static void give_port(struct stack *stack, uint16_t port, bool spread)
{
    udp_port_remove(port);
    directory_release(stack, spread ? DIRECTORY_SPREAD : DIRECTORY_UDP, port);
}

static int take_any_port(struct stack *stack, uint16_t *port)
{
    int error = -E_ADDRINUSE;
    for (uint32_t attempt = 0; attempt < PORT_TRIES && error == -E_ADDRINUSE; attempt++) {
        *port = (uint16_t)(PORT_FIRST + (platform_random() >> 9 & PORT_MASK));
        error = take_port(stack, *port, false);
    }
    return error;
}

/* Whether the port of a spread socket could be taken: what the first core says holds for all. */
static int decide(struct service *service, const struct datagram *socket, ip_addr_t *address, uint16_t port)
{
    struct stack *stack = service->stack;
    uint32_t slot = index_of(socket) - UDP_SOCKETS;
    int error = lock_take(&stack->lock, LOCK_SPREAD);
    if (error != 0) {
        return error;
    }
    uint32_t fate = *fate_of(slot);
    RACE_POINT();
    if (fate == 0u || FATE_GENERATION(fate) != socket->generation) {
        bool known = ip_addr_isany(address) || is_local(stack, address);
        error = known ? take_port(stack, port, true) : -E_ADDRNOTAVAIL;
        *fate_of(slot) = FATE(socket->generation, -error);
    } else {
        error = -(int)FATE_ERROR(fate);
        service->udp.errors += error == 0 && take_port(stack, port, true) != 0 ? 1u : 0u;
    }
    lock_release(&stack->lock, LOCK_SPREAD);
    return error;
}

static struct datagram *find_free(struct service *service, bool spread)
{
    for (uint32_t i = spread ? UDP_SOCKETS : 0u; i < (spread ? UDP_SOCKETS + UDP_SPREAD : UDP_SOCKETS); i++) {
        if (!service->udp.sockets[i].used) {
            return &service->udp.sockets[i];
        }
    }
    return NULL;
}

static bool is_spread_port(const struct service *service, uint16_t port)
{
    for (uint32_t i = UDP_SOCKETS; i < UDP_SOCKETS + UDP_SPREAD; i++) {
        const struct datagram *socket = &service->udp.sockets[i];
        if (socket->used && socket->pcb->local_port == port) {
            return true;
        }
    }
    return false;
}

static struct udp_pcb *make_pcb(struct datagram *socket, const ip_addr_t *address, uint16_t port)
{
    struct udp_pcb *pcb = udp_new_ip_type(IP_GET_TYPE(address));
    if (pcb == NULL) {
        return NULL;
    }
    pcb->ttl = DEFAULT_TTL;
    udp_set_multicast_ttl(pcb, MULTICAST_TTL);
    ip_set_option(pcb, SOF_REUSEADDR); /* the directory decides */
    if (udp_bind(pcb, address, port) != ERR_OK) {
        udp_remove(pcb);
        return NULL;
    }
    udp_recv(pcb, udp_received, socket);
    return pcb;
}

/* The type of the address is that of the socket: both families if it is "any". */
static int parse(const uint32_t *sqe, ip_addr_t *address, uint16_t *port, bool *spread)
{
    uint32_t flags = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    int error = udp_parse(sqe + TS_SQE_INLINE_WORD, address, port);
    if (error != 0) {
        return error;
    }
    *spread = (flags & TS_UDP_FLAG_SPREAD) != 0u;
    bool only = (flags & TS_UDP_FLAG_V6ONLY) != 0u, any6 = IP_IS_V6(address) && ip_addr_isany(address);
    if ((flags & ~(TS_UDP_FLAG_SPREAD | TS_UDP_FLAG_V6ONLY)) != 0u || (only && !any6) ||
        (*spread && *port == 0u)) {
        return -E_INVAL;
    }
    if (any6 && !only) {
        IP_SET_TYPE(address, IPADDR_TYPE_ANY);
    }
    return 0;
}

/* The manager's DHCP client gets its answers by a rule, which comes after the port table. About spread sockets all cores
 * must agree. */
static bool is_reserved(const struct stack *stack, uint16_t port, bool spread)
{
    bool wanted = spread;
    for (uint32_t i = 0; i < stack->ports; i++) {
        wanted = wanted || stack->dhcp[i];
    }
    return wanted && port == PORT_DHCP;
}

void udp_open(struct service *service, struct op *op, const uint32_t *sqe)
{
    struct stack *stack = service->stack;
    ip_addr_t address;
    uint16_t port = 0;
    bool spread = false;
    int error = parse(sqe, &address, &port, &spread);
    struct datagram *socket = error == 0 ? find_free(service, spread) : NULL;
    if (error == 0 && ((spread && is_spread_port(service, port)) || is_reserved(stack, port, spread))) {
        error = -E_ADDRINUSE;
    } else if (error == 0 && socket == NULL) {
        error = -E_NFILE;
    }
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    uint16_t generation = (uint16_t)(socket->generation + 1u);
    *socket = (struct datagram){
        .service = service,
        .generation = generation == 0u ? 1u : generation,
        .host = op->host,
        .quota = UDP_QUOTA,
        .tx_quota = UDP_TX_QUOTA,
        .spread = spread,
    };
    if (spread) {
        error = decide(service, socket, &address, port);
    } else if (!ip_addr_isany(&address) && !is_local(stack, &address)) {
        error = -E_ADDRNOTAVAIL;
    } else {
        error = port == 0u ? take_any_port(stack, &port) : take_port(stack, port, false);
    }
    if (error == 0) {
        socket->pcb = make_pcb(socket, &address, port);
        if (socket->pcb == NULL) {
            give_port(stack, port, spread);
            error = -E_ADDRINUSE; /* the DHCP client has it */
        }
    }
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    socket->used = true;
    service->udp.open++;
    service->open++;
    socket_set_load(service);
    op_finish(service, op, (int32_t)udp_handle(socket));
}

static void close_socket(struct service *service, struct datagram *socket)
{
    udp_leave_all(service, socket);
    give_port(service->stack, socket->pcb->local_port, socket->spread);
    udp_drop(socket);
    udp_remove(socket->pcb);
    socket->pcb = NULL;
    socket->used = false;
    service->udp.open--;
    service->open--;
    socket_set_load(service);
}

static void write_name(struct service *service, struct op *op, const struct datagram *socket, bool peer)
{
    uint32_t words[TS_SOCKET_ADDRESS_WORDS] = {0};
    const struct udp_pcb *pcb = socket->pcb;
    if (peer && (pcb->flags & UDP_FLAGS_CONNECTED) == 0u) {
        op_finish(service, op, -E_NOTCONN);
        return;
    }
    address_write(words, peer ? &pcb->remote_ip : &pcb->local_ip, peer ? pcb->remote_port : pcb->local_port);
    op_write_result(service, op, words, TS_SOCKET_ADDRESS_BYTES);
}

void udp_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe)
{
    switch (op->operation) {
    case TS_OP_SEND:
    case TS_OP_SENDTO:
        udp_send_op(service, op, socket, sqe);
        break;
    case TS_OP_RECV:
    case TS_OP_RECVFROM:
        udp_receive_op(service, op, socket, sqe);
        break;
    case TS_OP_SETSOCKOPT:
        op_finish(
            service, op,
            udp_set_option(service, socket, sqe[TS_SQE_OPERATION_FLAGS_WORD], sqe + TS_SQE_INLINE_WORD));
        break;
    case TS_OP_GETSOCKOPT:
        op_finish(service, op, udp_get_option(service, socket, sqe[TS_SQE_OPERATION_FLAGS_WORD]));
        break;
    case TS_OP_CLOSE:
    case TS_OP_ABORT:
        close_socket(service, socket);
        op_finish(service, op, 0);
        break;
    case TS_OP_GETSOCKNAME:
    case TS_OP_GETPEERNAME:
        write_name(service, op, socket, op->operation == TS_OP_GETPEERNAME);
        break;
    default:
        op_finish(service, op, -E_INVAL);
        break;
    }
}

/* --- ICMP: nobody has the port that a socket's datagram went to --- */

/* Enough of an address to tell peers apart, and to fit a message. */
static uint32_t fold(const ip_addr_t *address)
{
    if (IP_IS_V6(address)) {
        const uint32_t *words = ip_2_ip6(address)->addr;
        return words[0] * 3u + words[1] * 5u + words[2] * 7u + words[3] * 11u + 1u;
    }
    return ip_2_ip4(address)->addr;
}

/* True if a socket of this core is meant. The error goes to its oldest receive, or waits. */
static bool report(struct service *service, uint32_t peer, uint16_t peer_port, uint16_t local_port)
{
    for (uint32_t i = 0; i < UDP_SOCKETS + UDP_SPREAD; i++) {
        struct datagram *socket = &service->udp.sockets[i];
        const struct udp_pcb *pcb = socket->pcb;
        if (pcb == NULL || pcb->local_port != local_port) {
            continue;
        }
        if ((pcb->flags & UDP_FLAGS_CONNECTED) == 0u || pcb->remote_port != peer_port ||
            fold(&pcb->remote_ip) != peer) {
            return true; /* the socket has no such peer: nothing to report (RFC 1122 4.1.3.3) */
        }
        struct op *op = socket->receives.head;
        if (op != NULL) {
            op_remove(&socket->receives, op);
            op_finish(service, op, -E_CONNREFUSED);
        } else {
            socket->error = E_CONNREFUSED;
        }
        return true;
    }
    return false;
}

/* The dispatcher gives ICMP errors to the core that the hash names, and the socket may live on another. */
void udp_unreachable(void *context, const ip_addr_t *peer, uint16_t peer_port, uint16_t local_port)
{
    struct service *service = context;
    struct stack *stack = service->stack;
    if (report(service, fold(peer), peer_port, local_port)) {
        return;
    }
    uint32_t words[4] = {MESSAGE_UNREACHABLE, fold(peer), peer_port | (uint32_t)local_port << 16, 0};
    uint32_t alive = TS_GET(mmio_read(TS_DISPATCH_STATE), TS_DISPATCH_STATE_ALIVE);
    for (uint32_t core = 0; core < stack->cores; core++) {
        if (core != stack->core && (alive >> core & 1u) != 0u) {
            message_send(&stack->message, core,
                         words); /* lost if too many wait, as the ICMP message could be */
        }
    }
}

bool udp_message(struct service *service, const uint32_t words[4])
{
    if ((words[0] & 0xFFu) != MESSAGE_UNREACHABLE) {
        return false;
    }
    report(service, words[1], (uint16_t)(words[2] & 0xFFFFu), (uint16_t)(words[2] >> 16));
    return true;
}

/* --- CANCEL --- */

static bool cancel_list(struct service *service, struct op_list *list, uint32_t low, uint32_t high,
                        uint8_t host)
{
    bool found = false;
    for (struct op *op = list->head, *next; op != NULL; op = next) {
        next = op->next;
        if (op->user_low == low && op->user_high == high && op->host == host) {
            op_remove(list, op);
            op_finish(service, op, -E_CANCELED);
            found = true;
        }
    }
    return found;
}

/* Receives without a datagram, and sends of which nothing was fetched. */
bool udp_cancel(struct service *service, uint32_t user_low, uint32_t user_high, uint8_t host)
{
    bool found = false;
    for (uint32_t i = 0; i < UDP_SOCKETS + UDP_SPREAD; i++) {
        struct datagram *socket = &service->udp.sockets[i];
        if (socket->used) {
            found |= cancel_list(service, &socket->receives, user_low, user_high, host);
            found |= cancel_list(service, &socket->sends, user_low, user_high, host);
        }
    }
    return found;
}
