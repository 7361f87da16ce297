/* Boot handshake: hardware and firmware refuse each other unless magic and ABI agree. */
#include "stack.h"

static uint32_t core_number(void)
{
    return TS_GET(mmio_read(TS_CORE_IDENTITY), TS_CORE_IDENTITY_CORE);
}

int boot_check(void)
{
    uint32_t magic = mmio_read(TS_CORE_MAGIC);
    uint32_t abi = mmio_read(TS_CORE_ABI);
    uint32_t memory = mmio_read(TS_CORE_MEMORY);
    if (magic != TS_MAGIC) {
        console_printf("twinstack firmware: hardware magic %08x, expected %08x\n", magic, TS_MAGIC);
        return -E_INVAL;
    }
    /* Reported even on a mismatch, not ready: the host sees why. */
    mmio_write(TS_CORE_READY, TS_PUT(TS_CORE_READY_FIRMWARE_ABI, TS_ABI_VERSION));
    if (abi != TS_ABI_VERSION) {
        console_printf("core %u: hardware ABI %u, firmware ABI %u: stopped\n", core_number(), abi,
                       TS_ABI_VERSION);
        return -E_INVAL;
    }
    if (TS_GET(memory, TS_CORE_MEMORY_DATA_KIB) * 1024u < TS_CONFIG_DATA_BYTES ||
        TS_GET(memory, TS_CORE_MEMORY_RX_KIB) * 1024u < TS_CONFIG_RX_BANK_BYTES / 1024u * 1024u ||
        TS_GET(memory, TS_CORE_MEMORY_TX_KIB) * 1024u < TX_BUFFERS * TS_TX_BUFFER_BYTES) {
        console_printf("core %u: memories %08x KiB are smaller than the firmware was built for: stopped\n",
                       core_number(), memory);
        return -E_INVAL;
    }
    uint32_t buffers = mmio_read(TS_CORE_RX_BUFFERS);
    if (TS_GET(buffers, TS_CORE_RX_BUFFERS_LARGE) != RX_LARGE ||
        TS_GET(buffers, TS_CORE_RX_BUFFERS_SMALL) != RX_SMALL) {
        console_printf("core %u: RX buffers %08x are not those the firmware was built for: stopped\n",
                       core_number(), buffers);
        return -E_INVAL;
    }
    return 0;
}

void boot_ready(void)
{
    console_printf("core %u: twinstack firmware %u.%u, ABI %u, stack up\n", core_number(),
                   FIRMWARE_VERSION_MAJOR, FIRMWARE_VERSION_MINOR, TS_ABI_VERSION);
    mmio_write(TS_CORE_READY,
               TS_PUT(TS_CORE_READY_FIRMWARE_ABI, TS_ABI_VERSION) | TS_PUT(TS_CORE_READY_READY, 1u));
}

void boot_failed(void)
{
    console_printf("core %u: stopped\n", core_number());
    mmio_write(TS_CORE_READY, TS_PUT(TS_CORE_READY_FIRMWARE_ABI, TS_ABI_VERSION));
}
