/* Time: the engine's 1 kHz count, cycle and idle counters. Reading a low word latches the high word. */
#include "drivers.h"
#include "lwip/sys.h"

uint32_t time_ms(void)
{
    return mmio_read(TS_TIMER_MILLISECONDS);
}

u32_t sys_now(void)
{
    return time_ms();
}

uint64_t time_cycles(void)
{
    uint32_t low = mmio_read(TS_TIMER_CYCLES_LOW);
    return (uint64_t)mmio_read(TS_TIMER_CYCLES_HIGH) << 32 | low;
}

uint64_t time_idle_cycles(void)
{
    uint32_t low = mmio_read(TS_TIMER_IDLE_LOW);
    return (uint64_t)mmio_read(TS_TIMER_IDLE_HIGH) << 32 | low;
}

#ifndef TWINSTACK_HOST
uint64_t time_instructions(void)
{
    uint32_t high, low, again;
    do {
        __asm__ volatile("csrr %0, minstreth" : "=r"(high));
        __asm__ volatile("csrr %0, minstret" : "=r"(low));
        __asm__ volatile("csrr %0, minstreth" : "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}
#endif
