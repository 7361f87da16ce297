/* The firmware on the PC: commands on standard input, one a line; events and "ok" on standard output.
 *
 * frame PORT ANSWER HEX | burst PORT ANSWER HEX... | sqe HOST JOINED JOIN_ID HEX | message FROM W0 W1 W2 W3 | time MS | write ADDRESS
 * HEX read ADDRESS LENGTH | cqspace N | stall 0/1 | dmastall 0/1 [MS] | mac PORT STATUS | phy PORT ADDRESS REGISTER VALUE |
 * nophy PORT | manager CORE | state | quit */
#include "fake.h"
#include "service.h"
#include "lwip/priv/memp_priv.h"
#include "lwip/priv/tcp_priv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS     10000
#define LINE_SIZE 262144

static struct stack stack;
static struct service service;

void platform_panic(const char *text)
{
    fprintf(stderr, "panic: %s\n", text);
    abort();
}

void platform_interrupts(bool on)
{
    (void)on;
}

uint64_t time_instructions(void)
{
    return 0;
}

static void settle(const struct program *program)
{
    for (int i = 0; i < STEPS; i++) {
        int work = executive_step(&stack, program);
        fake_step();
        if (work == 0 && executive_step(&stack, program) == 0) {
            return;
        }
    }
    printf("never idle\n");
}

static uint32_t parse_hex(const char *text, uint8_t *bytes, uint32_t limit)
{
    uint32_t count = 0;
    unsigned value;
    while (count < limit && sscanf(text + 2u * count, "%2x", &value) == 1) {
        bytes[count++] = (uint8_t)value;
    }
    return count;
}

static unsigned count_pcbs(const struct tcp_pcb *list)
{
    unsigned count = 0;
    for (const struct tcp_pcb *pcb = list; pcb != NULL; pcb = pcb->next) {
        count++;
    }
    return count;
}

static void print_state(void)
{
    unsigned ops = 0, directory = 0, listeners = 0, pieces = 0;
    for (uint32_t i = 0; i < LISTENERS; i++) {
        listeners += service.listeners[i].used ? 1u : 0u;
    }
    for (uint32_t i = 0; i < TX_BUFFERS; i++) {
        pieces += service.pieces[i].state != PIECE_FREE ? 1u : 0u;
    }
    unsigned kept = UDP_KEPT, groups = 0;
    for (const struct kept *entry = service.udp.free_entries; entry != NULL; entry = entry->next) {
        kept--;
    }
    for (uint32_t i = 0; i < TS_CONFIG_PORTS * UDP_GROUPS; i++) {
        groups += service.udp.groups[i / UDP_GROUPS][i % UDP_GROUPS].members;
    }
    for (const struct op *op = service.free_ops.head; op != NULL; op = op->next) {
        ops++;
    }
    for (uint32_t i = 0; i < DIRECTORY_ENTRIES; i++) {
        directory += ((const uint32_t *)(uintptr_t)TS_SHARED_BASE)[i] != 0u ? 1u : 0u;
    }
    printf(
        "state rx_free=%u bad_free=%u tx_free=%u scratch=%u ops=%u sockets=%u pcbs=%u directory=%u copied=%u "
        "foreign=%u dropped=%u tx_errors=%u rx_dropped=%u excess=%u listeners=%u pieces=%u time_wait=%u "
        "rx_large=%u rx_small=%u flows=%u flow_full=%u flow_errors=%u flow_clashes=%u flow_frames=%u "
        "frames=%u "
        "given=%u taken=%u not_given=%u link=%u mac0=%u multicast0=%llu multicast1=%llu "
        "udp_ports=%u udp_dropped=%u udp_errors=%u udp_tx=%u kept_large=%u kept_small=%u kept=%u groups=%u\n",
        fake_rx_free(), fake_bad_free(), stack.bank.free_count, stack.bank.scratch_free, ops, service.open,
        count_pcbs(tcp_active_pcbs), directory, stack.tx.copied, stack.foreign, stack.rx.dropped,
        stack.tx.errors, fake_rx_dropped(), service.excess, listeners, pieces, count_pcbs(tcp_tw_pcbs),
        rx_free_large(), rx_free_small(), fake_flows(), service.flow.full, service.flow.errors,
        service.flow.clashes, stack.rx.flow_frames, stack.rx.frames, stack.handover.given,
        stack.handover.taken, stack.handover.dropped, netif_is_link_up(&stack.netifs[0]), fake_mac_control(0),
        (unsigned long long)fake_multicast(0), (unsigned long long)fake_multicast(1), fake_udp_ports(),
        service.udp.dropped, service.udp.errors, service.udp.tx_buffers, service.udp.kept_large,
        service.udp.kept_small, kept, groups);
}

static void execute(char *line, const struct program *program)
{
    static uint8_t bytes[LINE_SIZE / 2];
    static char hex[LINE_SIZE];
    unsigned a, b, c, d;
    uint32_t words[4];
    if (sscanf(line, "burst %u %u %n", &a, &b, (int *)&c) ==
        2) { /* frames that come faster than they are handled */
        for (char *frame = strtok(line + c, " \n"); frame != NULL; frame = strtok(NULL, " \n")) {
            fake_frame(a, b != 0u, bytes, parse_hex(frame, bytes, sizeof(bytes)));
        }
    } else if (sscanf(line, "frame %u %u %s", &a, &b, hex) == 3) {
        fake_frame(a, b != 0u, bytes, parse_hex(hex, bytes, sizeof(bytes)));
    } else if (sscanf(line, "sqe %u %u %u %s", &a, &b, &c, hex) == 4) {
        if (parse_hex(hex, bytes, TS_SQE_BYTES) != TS_SQE_BYTES || fake_deliver(a, b != 0u, c, bytes) != 0) {
            printf("ring full\n");
        }
    } else if (sscanf(line, "message %u %u %u %u %u", &a, &words[0], &words[1], &words[2], &words[3]) == 5) {
        fake_message(a, words);
    } else if (sscanf(line, "time %u", &a) == 1) {
        for (; a > 0u; a--) {
            fake_time(1u);
            settle(program);
        }
    } else if (sscanf(line, "write %u %s", &a, hex) == 2) {
        uint32_t length = parse_hex(hex, bytes, sizeof(bytes));
        if (fake_host(a, length) != NULL) {
            memcpy(fake_host(a, length), bytes, length);
        }
    } else if (sscanf(line, "read %u %u", &a, &b) == 2 && fake_host(a, b) != NULL) {
        printf("data ");
        for (uint32_t i = 0; i < b; i++) {
            printf("%02x", fake_host(a, b)[i]);
        }
        printf("\n");
    } else if (sscanf(line, "cqspace %u", &a) == 1) {
        fake_cq_space(a);
        fake_time(0u);
    } else if (sscanf(line, "manager %u", &a) == 1) {
        fake_manager(a);
    } else if (sscanf(line, "stall %u", &a) == 1) {
        fake_tx_stall(a != 0u);
    } else if (sscanf(line, "mac %u %u", &a, &b) == 2) {
        fake_mac_status(a, b);
    } else if (sscanf(line, "phy %u %u %u %u", &a, &b, &c, &d) == 4) {
        fake_phy(a, b % 32u, c % 32u, d);
    } else if (sscanf(line, "nophy %u", &a) == 1) {
        fake_no_phy(a);
    } else if (sscanf(line, "dmastall %u %u", &a, &b) ==
               2) { /* and time passes before the firmware sees it */
        fake_dma_stall(a != 0u);
        fake_step();
        fake_time(b);
    } else if (sscanf(line, "dmastall %u", &a) == 1) {
        fake_dma_stall(a != 0u);
        fake_time(0u);
    }
}

int main(int argc, char **argv)
{
    static char line[LINE_SIZE];
    struct fake_options options = {.cores = 1, .epoch = 1, .abi = TS_ABI_VERSION};
    for (int i = 1; i + 1 < argc; i += 2) {
        uint32_t value = (uint32_t)strtoul(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--core") == 0) {
            options.core = value;
        } else if (strcmp(argv[i], "--cores") == 0) {
            options.cores = value;
        } else if (strcmp(argv[i], "--epoch") == 0) {
            options.epoch = value;
        } else if (strcmp(argv[i], "--manager") == 0) {
            options.manager = value;
        } else if (strcmp(argv[i], "--abi") == 0) {
            options.abi = value;
        } else if (strcmp(argv[i], "--random") == 0) {
            options.random = value;
        } else if (strcmp(argv[i], "--race-us") == 0) {
            options.race_us = value;
        } else if (strcmp(argv[i], "--broken-lock") == 0) {
            options.broken_lock = value != 0u;
        } else if (strcmp(argv[i], "--alive") == 0) {
            options.alive = value;
        } else if (strcmp(argv[i], "--flows") == 0) {
            options.flows = value;
        } else if (strcmp(argv[i], "--shared") == 0) {
            options.shared = argv[i + 1];
        }
    }
    if (fake_init(&options) != 0) {
        fprintf(stderr, "cannot map the target's addresses\n");
        return 2;
    }
    if (boot_check() != 0 || stack_init(&stack) != 0 || service_init(&service, &stack) != 0) {
        boot_failed();
        return 1;
    }
    const struct program program = service_program(&service);
    boot_ready();
    for (;;) {
        settle(&program);
        printf("ok\n");
        fflush(stdout);
        if (fgets(line, sizeof(line), stdin) == NULL || strncmp(line, "quit", 4) == 0) {
            return 0;
        }
        if (strncmp(line, "state", 5) == 0) {
            print_state();
        } else {
            execute(line, &program);
        }
    }
}
