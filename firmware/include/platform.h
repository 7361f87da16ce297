/* Access to registers and to memory that hardware shares: the only code that differs between the core and the
 * PC. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sizes.h"

#define ALIGNED(bytes) __attribute__((aligned(bytes)))

/* Everything in data RAM that hardware reads or writes. */
struct hw_layout {
    uint32_t rx_ring[RX_RING_ENTRIES][TS_RX_DESCRIPTOR_WORDS];
    uint32_t rx_other_ring[RX_OTHER_RING_ENTRIES][TS_RX_DESCRIPTOR_WORDS];
    uint8_t rx_headers[RX_BUFFERS][TS_HEADER_COPY_BYTES];
    uint32_t tx_ring[TX_RING_ENTRIES][TS_TX_COMMAND_WORDS];
    uint32_t tx_gather[TX_RING_ENTRIES][TS_MAX_GATHER][TS_GATHER_ENTRY_WORDS];
    uint32_t sq_ring[SQ_RING_ENTRIES][TS_SQ_DELIVERY_WORDS];
    uint8_t heap[LWIP_HEAP_BYTES + 64] ALIGNED(8);
} ALIGNED(64);

#ifdef TWINSTACK_HOST

/* The fake engine maps this memory and the banks at the addresses of the target and answers register
 * accesses. Its uncached alias is the memory itself: a sanitizer has its shadow where bit 31 would lead. */
#define hw_memory (*(struct hw_layout *)(uintptr_t)TS_DATA_BASE)
#define ALIAS     0u
uint32_t mmio_read(uint32_t address);
void mmio_write(uint32_t address, uint32_t value);
void fake_race_point(void);
#define RACE_POINT() fake_race_point()

#else

#define RACE_POINT() ((void)0) /* where a test of the locks lets the other core run */

extern struct hw_layout hw_memory;
#define ALIAS        TS_UNCACHED

static inline uint32_t mmio_read(uint32_t address)
{
    return *(volatile uint32_t *)address;
}

static inline void mmio_write(uint32_t address, uint32_t value)
{
    *(volatile uint32_t *)address = value;
}

#endif

/* CPU address of a cached or uncached pointer, as hardware takes it. */
static inline uint32_t address_of(const volatile void *pointer)
{
    return (uint32_t)(uintptr_t)pointer & ~TS_UNCACHED;
}

/* Uncached alias of hardware-shared memory at a CPU address; the data cache never snoops. */
static inline void *uncached(uint32_t address)
{
    return (void *)(uintptr_t)(address | ALIAS);
}

static inline volatile uint32_t *uncached_words(const volatile void *pointer)
{
    return (volatile uint32_t *)uncached(address_of(pointer));
}

/* Order of accesses to shared memory: the CPU is in order and write-through, the compiler is not. */
static inline void memory_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}

void platform_panic(const char *text) __attribute__((noreturn, cold));
uint32_t platform_random(void);

/* Enable the tick interrupt of the CPU; on the PC nothing. */
void platform_interrupts(bool on);

#endif
