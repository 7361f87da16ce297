/* A fake engine around one core's firmware on the PC: registers, packet memory, DMA, queues. */
#ifndef FAKE_H
#define FAKE_H

#include "platform.h"

#define FAKE_HOST_BYTES 0x100000u /* host memory; transfers beyond it are outside the windows */

struct fake_options {
    uint32_t core, cores, epoch, manager, abi;
    const char *shared; /* file for the shared region and the locks, or NULL */
    uint32_t random;    /* seed, 0: by core */
    uint32_t race_us;   /* how long a core waits at a race point */
    bool broken_lock;   /* every try succeeds */
    uint32_t flows;     /* entries of the flow table, 0: as configured */
    uint32_t alive;     /* cores that are alive, 0: all */
};

int fake_init(const struct fake_options *options);
void fake_step(void); /* TX engine and DMA do what is queued */
void fake_frame(uint32_t port, bool answer, const uint8_t *frame, uint32_t length);
int fake_deliver(uint32_t host, bool joined, uint32_t join_id, const uint8_t *sqe);
int fake_message(uint32_t from, const uint32_t words[4]);
void fake_time(uint32_t ms);
void fake_manager(uint32_t core);                      /* the role moves */
uint8_t *fake_host(uint32_t address, uint32_t length); /* NULL: outside */
void fake_cq_space(uint32_t space);
void fake_tx_stall(bool stall);
void fake_dma_stall(bool stall);
void fake_mac_status(uint32_t port, uint32_t status);
void fake_phy(uint32_t port, uint32_t address, uint32_t number,
              uint32_t value); /* a register, and that it exists */
void fake_no_phy(uint32_t port);
uint32_t fake_mac_control(uint32_t port);
uint64_t fake_multicast(uint32_t port); /* the hash filter */
uint32_t fake_udp_ports(void);          /* this core is a member of */
uint32_t fake_flows(void);              /* entries of this core */
uint32_t fake_rx_free(void);
uint32_t fake_rx_dropped(void);
uint32_t fake_bad_free(void);

#endif
