/* Messages of four words to the other cores; what finds no space waits in a queue, in order. */
#include "drivers.h"

static bool send_now(struct message *message, uint32_t to, const uint32_t words[4])
{
    if ((TS_GET(mmio_read(TS_MESSAGE_STATUS), TS_MESSAGE_STATUS_SPACE) >> to & 1u) == 0u) {
        return false;
    }
    for (uint32_t i = 0; i < 4u; i++) {
        mmio_write(TS_MESSAGE_SEND_WORD(i), words[i]);
    }
    mmio_write(TS_MESSAGE_SEND, TS_PUT(TS_MESSAGE_SEND_TO, to));
    message->sent++;
    return true;
}

int message_send(struct message *message, uint32_t to, const uint32_t words[4])
{
    message_flush(message);
    if (message->count == 0u && send_now(message, to, words)) {
        return 0;
    }
    if (message->count == MESSAGE_QUEUE) {
        return -E_AGAIN;
    }
    uint32_t slot = (message->head + message->count) % MESSAGE_QUEUE;
    message->queue[slot].to = to;
    for (uint32_t i = 0; i < 4u; i++) {
        message->queue[slot].words[i] = words[i];
    }
    message->count++;
    return 0;
}

void message_flush(struct message *message)
{
    while (message->count != 0u &&
           send_now(message, message->queue[message->head].to, message->queue[message->head].words)) {
        message->head = (message->head + 1u) % MESSAGE_QUEUE;
        message->count--;
    }
}

int message_receive(struct message *message, uint32_t *sender, uint32_t words[4])
{
    (void)message;
    uint32_t status = mmio_read(TS_MESSAGE_STATUS);
    if (TS_GET(status, TS_MESSAGE_STATUS_AVAILABLE) == 0u) {
        return -E_AGAIN;
    }
    *sender = TS_GET(status, TS_MESSAGE_STATUS_SENDER);
    for (uint32_t i = 0; i < 4u; i++) {
        words[i] = mmio_read(TS_MESSAGE_WORD(i));
    }
    mmio_write(TS_MESSAGE_POP, 1u);
    return 0;
}
