/* The core itself: interrupts, traps, the memory that hardware shares. */
#include "stack.h"

#define CAUSE_INTERRUPT 0x80000000u
#define MIE_EXTERNAL    (1u << 11)
#define MSTATUS_MIE     (1u << 3)

struct hw_layout hw_memory __attribute__((section(".bss.hw_memory")));

void trap_handler(uint32_t cause, uint32_t address, uint32_t value);

static void stop(void) __attribute__((noreturn));
static void stop(void)
{
    boot_failed();
    platform_interrupts(false);
    for (;;) { /* the host sees the console and that the core is not ready */
    }
}

void platform_panic(const char *text)
{
    console_printf("panic: %s\n", text);
    stop();
}

__attribute__((noinline)) void platform_assertion(void)
{
    console_printf("panic: assertion before %08x\n", (uint32_t)(uintptr_t)__builtin_return_address(0));
    stop();
}

/* The external interrupt line has the tick only (event.enable); exceptions are fatal and say where. */
void trap_handler(uint32_t cause, uint32_t address, uint32_t value)
{
    if ((cause & CAUSE_INTERRUPT) != 0u) {
        executive_tick();
        return;
    }
    console_printf("trap: cause %u at %08x, value %08x\n", cause, address, value);
    stop();
}

void platform_interrupts(bool on)
{
    if (on) {
        __asm__ volatile("csrw 0xBC0, %0" : : "r"(1u)); /* VexRiscv's interrupt mask: line 0 */
        __asm__ volatile("csrs mie, %0" : : "r"(MIE_EXTERNAL));
        __asm__ volatile("csrs mstatus, %0" : : "r"(MSTATUS_MIE));
    } else {
        __asm__ volatile("csrc mstatus, %0" : : "r"(MSTATUS_MIE));
    }
}
