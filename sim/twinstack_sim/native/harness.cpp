// The Verilated engine behind a C ABI: clocks, GMII pins, host memory, host CSR target, tick and interrupt.
//
// With TS_STANDALONE it is the standalone engine: host memory is inside, and a UART, bit by bit, is the only way
// to it and to the registers.
//
// Time is event driven, in femtoseconds. Each clock has its own period and phase; only rising edges are
// events. A clock falls together with the next event (of any clock), or just before its own next rise:
// nothing in the design is sensitive to a falling edge, so the only thing this changes is the number of
// evaluations.
//
// Inputs of a clock domain change right after that domain's rising edge was evaluated. A call returns right
// after a rising edge of `sync`, so every access from outside starts at the same point of a cycle.
//
// The model computes anew what depends on its inputs at every evaluation, changed or not, and that is most of
// the engine. So the inputs stand behind registers (build.py), loaded on both edges of an `apply` signal:
// that of the clocks' group changes only when one of its inputs did. It changes with the next event of
// another clock where there is one before the next edge that looks at the inputs, and in an evaluation of its
// own otherwise.

#include "Vengine.h"
#include "verilated.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#ifndef TS_PORTS
#error "TS_PORTS is the number of network ports of the model"
#endif

#define TS_API extern "C" __attribute__((visibility("default")))

namespace
{

constexpr uint32_t kAbi = 3;
constexpr int kMaxPorts = 4;
constexpr int kClocks = 1 + 2 * TS_PORTS; // sync, then rx and tx of each port
constexpr int kGroups = 1 + TS_PORTS;     // of inputs: sync and all resets, then receive pins of each port
constexpr double kFemtoseconds = 1e15;
constexpr int kResetCycles = 32;  // of sync; longer than any other clock's synchroniser needs
constexpr int kPreambleBytes = 7; // IEEE 802.3 clause 3.2.1
constexpr uint8_t kPreamble = 0x55;
constexpr uint8_t kSfd = 0xd5;        // clause 3.2.2
constexpr int kInterFrameBytes = 12;  // clause 4.4.2: 96 bit times
constexpr size_t kMinFrameBytes = 64; // clause 4.4.2, FCS included
constexpr size_t kMaxCapturedBytes = 16384;
constexpr uint32_t kIdleData = 0x5a5a5a5a; // on dat_r without ack: nobody may look at it

enum PushFlags : uint32_t { kPushBadFcs = 1, kPushRxEr = 2, kPushRaw = 4 };
enum FrameFlags : uint32_t {
    kBadFcs = 1,
    kTxEr = 2,
    kBadPreamble = 4,
    kShortGap = 8,
    kRunt = 16,
    kTruncated = 32
};
enum Stops : uint32_t { kStopFrame = 1, kStopIrq = 2, kStopUart = 4 };
enum UartFlags : uint32_t { kUartBadStop = 1, kUartBreak = 2 };
enum Reasons : int {
    kReasonCycles = 0,
    kReasonFrame = 1,
    kReasonIrq = 2,
    kReasonFault = 3,
    kReasonFinish = 4,
    kReasonUart = 5
};
enum CsrResults : int { kCsrOk = 0, kCsrErr = 1, kCsrTimeout = 2 };

// CRC-32 of IEEE 802.3 clause 3.2.9, reflected.
struct Crc32Table {
    uint32_t entry[256];
    constexpr Crc32Table() : entry{}
    {
        for (uint32_t n = 0; n < 256; ++n) {
            uint32_t c = n;
            for (int k = 0; k < 8; ++k)
                c = (c & 1) ? 0xedb88320u ^ (c >> 1) : c >> 1;
            entry[n] = c;
        }
    }
};
constexpr Crc32Table kCrc32;

uint32_t crc32(const uint8_t *bytes, size_t length)
{
    uint32_t c = 0xffffffffu;
    for (size_t n = 0; n < length; ++n)
        c = kCrc32.entry[(c ^ bytes[n]) & 0xff] ^ (c >> 8);
    return c ^ 0xffffffffu;
}

struct Random { // xorshift64*
    uint64_t state;
    uint64_t next()
    {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return state * 0x2545f4914f6cdd1dull;
    }
    uint32_t below(uint32_t limit)
    {
        return static_cast<uint32_t>((next() >> 32) * uint64_t(limit) >> 32);
    }
    double unit()
    {
        return double(next() >> 11) / 9007199254740992.0;
    }
};

struct RxFrame {
    std::vector<uint8_t> bytes; // as on the pins: preamble to FCS
    size_t error_at;            // byte with RX_ER, or SIZE_MAX
};

struct TxFrame {
    int port;
    uint32_t flags;
    uint64_t time_fs; // end of its last byte
    std::vector<uint8_t> bytes;
};

struct Gmii {
    CData *rxd, *rx_dv, *rx_er;
    CData *txd, *tx_en, *tx_er;
    std::deque<RxFrame> queue;
    size_t queued_bytes = 0;
    size_t position = 0;
    int gap = 0; // bytes of the inter-frame gap still to go
    std::vector<uint8_t> capture;
    uint32_t capture_flags = 0;
    bool was_sending = false;
    uint64_t idle = kInterFrameBytes; // TX bytes since the last frame
};

// The far end of a serial line, 8N1.
struct Uart {
    CData *rx = nullptr, *tx = nullptr; // the engine's pins
    double bit = 0.0;                   // cycles; 0: the line is idle for ever
    std::deque<uint16_t> to_engine;     // a byte, UartFlags above it
    std::deque<uint8_t> from_engine;
    uint32_t sending = 0; // bits to come, a one above them; 0: nothing
    double send_at = 0.0;
    int receiving = -1; // bit that is sampled next; -1: nothing
    double sample_at = 0.0;
    uint16_t received = 0;
    bool was_high = true;
    uint64_t bad_frames = 0;
    uint64_t wanted = 1; // bytes in from_engine at which kStopUart stops
};

// The board's SPI flash (mode 0); its contents are the caller's. Programming clears bits and wraps at the end of a page.
struct SpiFlash {
    CData *cs = nullptr, *clk = nullptr, *copi = nullptr, *cipo = nullptr;
    uint8_t *bytes = nullptr; // nullptr: there is none
    uint64_t size = 0;
    uint64_t busy_cycles = 0, busy_until = 0;
    bool was_selected = false, was_high = false, latch = false;
    int bits = 0;
    uint8_t in = 0, out = 0xff;
    std::vector<uint8_t> received;
};

#ifndef TS_STANDALONE
struct HostBus {
    const char *name;
    CData *cyc, *stb, *we, *sel, *cti, *ack, *err;
    IData *adr, *dat_w, *dat_r;
    bool pending = false;  // a request is waiting
    bool answered = false; // ack or err is high in this cycle
    bool in_burst = false; // the last answer promised a further word at burst_adr
    uint32_t burst_adr = 0;
    uint32_t wait = 0;
    uint32_t saved_adr = 0, saved_dat = 0;
    uint8_t saved_we = 0, saved_sel = 0;
    uint64_t reads = 0, writes = 0, errors = 0;
};
#endif

} // namespace

struct ts_config {
    uint64_t sync_hz;
    uint64_t phy_hz;
    double sync_ppm;
    double rx_ppm[kMaxPorts];
    double tx_ppm[kMaxPorts];
    uint64_t seed;
    uint8_t *memory; // the caller's, base address 0
    uint64_t memory_bytes;
    uint32_t max_wait;      // wait cycles of a host memory access, 0..max_wait
    uint32_t external_tick; // 1: only ts_tick() makes ticks
};

struct ts_model {
    ts_config config;
    VerilatedContext context;
    std::unique_ptr<Vengine> top;
    Random random;
    CData *clock[kClocks];
    uint64_t period[kClocks];
    uint64_t next[kClocks];
    CData *apply[kGroups];
    bool changed[kGroups] = {};
    uint64_t now = 0;
    uint64_t cycles = 0;
    uint64_t tick_cycles = 0, tick_left = 0;
    uint32_t ticks_pending = 0;
    bool in_reset = true;
    bool irq = false;
    bool saw_frame = false, saw_irq = false, saw_uart = false;
    Gmii port[TS_PORTS];
    Uart uart;
    SpiFlash flash;
#ifndef TS_STANDALONE
    HostBus bus[2];
#endif
    bool csr_active = false, csr_done = false;
    CsrResults csr_result = kCsrOk;
    uint32_t csr_data = 0;
    std::deque<TxFrame> transmitted;
    uint64_t faults = 0;
    std::string fault;

    explicit ts_model(const ts_config &given) : config(given)
    {
        random.state = given.seed * 0x9e3779b97f4a7c15ull + 0x1234567887654321ull;
        if (random.state == 0)
            random.state = 1;
        for (int n = 0; n < 8; ++n)
            random.next();
        top = std::make_unique<Vengine>(&context, "engine");
        bind();
        set_clock(0, config.sync_hz, config.sync_ppm);
        for (int p = 0; p < TS_PORTS; ++p) {
            set_clock(1 + 2 * p, config.phy_hz, config.rx_ppm[p]);
            set_clock(2 + 2 * p, config.phy_hz, config.tx_ppm[p]);
        }
        tick_cycles = config.sync_hz / 1000;
        tick_left = tick_cycles;
        for (int n = 0; n < kClocks; ++n)
            *clock[n] = 0;
        top->eval();
        set_resets(1);
        evaluate();
        advance(kResetCycles, 0);
        set_resets(0);
        in_reset = false;
        cycles = 0;
    }

    ~ts_model()
    {
        // The model's destructor works on the thread's context, which may be another model's, or gone with it.
        Verilated::threadContextp(&context);
        top->final();
        top.reset();
    }

    void set_clock(int index, uint64_t hz, double ppm)
    {
        period[index] =
            static_cast<uint64_t>(std::llround(kFemtoseconds / (double(hz) * (1.0 + ppm * 1e-6))));
        next[index] = now + 1 + static_cast<uint64_t>(random.unit() * double(period[index]));
    }

    // Evaluates, with the changed inputs taken over.
    void evaluate()
    {
        for (int n = 0; n < kGroups; ++n) {
            *apply[n] ^= changed[n];
            changed[n] = false;
        }
        top->eval();
    }

    void bind()
    {
        clock[0] = &top->clk;
        apply[0] = &top->apply;
#define TS_BIND_PORT(n)                                                                                      \
    apply[1 + n] = &top->apply##n;                                                                           \
    clock[1 + 2 * n] = &top->rx##n##_clk;                                                                    \
    clock[2 + 2 * n] = &top->tx##n##_clk;                                                                    \
    port[n].rxd = &top->port##n##___05Frxd;                                                                  \
    port[n].rx_dv = &top->port##n##___05Frx_dv;                                                              \
    port[n].rx_er = &top->port##n##___05Frx_er;                                                              \
    port[n].txd = &top->port##n##___05Ftxd;                                                                  \
    port[n].tx_en = &top->port##n##___05Ftx_en;                                                              \
    port[n].tx_er = &top->port##n##___05Ftx_er;
        TS_BIND_PORT(0)
#if TS_PORTS > 1
        TS_BIND_PORT(1)
#endif
#if TS_PORTS > 2
        TS_BIND_PORT(2)
#endif
#if TS_PORTS > 3
        TS_BIND_PORT(3)
#endif
#ifdef TS_STANDALONE
        uart.rx = &top->uart_rx;
        uart.tx = &top->uart_tx;
        *uart.rx = 1;
        flash.cs = &top->flash___05Fcs;
        flash.clk = &top->flash___05Fclk;
        flash.copi = &top->flash___05Fcopi;
        flash.cipo = &top->flash___05Fcipo;
#else
#define TS_BIND_BUS(index, prefix)                                                                           \
    bus[index].name = #prefix;                                                                               \
    bus[index].cyc = &top->prefix##___05Fcyc;                                                                \
    bus[index].stb = &top->prefix##___05Fstb;                                                                \
    bus[index].we = &top->prefix##___05Fwe;                                                                  \
    bus[index].sel = &top->prefix##___05Fsel;                                                                \
    bus[index].cti = &top->prefix##___05Fcti;                                                                \
    bus[index].adr = &top->prefix##___05Fadr;                                                                \
    bus[index].dat_w = &top->prefix##___05Fdat_w;                                                            \
    bus[index].dat_r = &top->prefix##___05Fdat_r;                                                            \
    bus[index].ack = &top->prefix##___05Fack;                                                                \
    bus[index].err = &top->prefix##___05Ferr;
        TS_BIND_BUS(0, host_read)
        TS_BIND_BUS(1, host_write)
#endif
    }

    void set_resets(uint8_t level)
    {
        changed[0] = true;
        top->rst = level;
        top->rx0_rst = level;
        top->tx0_rst = level;
#if TS_PORTS > 1
        top->rx1_rst = level;
        top->tx1_rst = level;
#endif
#if TS_PORTS > 2
        top->rx2_rst = level;
        top->tx2_rst = level;
#endif
#if TS_PORTS > 3
        top->rx3_rst = level;
        top->tx3_rst = level;
#endif
    }

    void report(const char *who, const char *what)
    {
        if (faults++ == 0) {
            char line[160];
            std::snprintf(line, sizeof line, "cycle %llu, %s: %s", static_cast<unsigned long long>(cycles),
                          who, what);
            fault = line;
        }
    }

    // ---- GMII ----

    void drive_rx(int index)
    {
        Gmii &pins = port[index];
        if (pins.gap > 0) {
            --pins.gap;
            return;
        }
        if (pins.queue.empty())
            return;
        changed[1 + index] = true;
        RxFrame &frame = pins.queue.front();
        if (pins.position < frame.bytes.size()) {
            *pins.rxd = frame.bytes[pins.position];
            *pins.rx_dv = 1;
            *pins.rx_er = pins.position == frame.error_at;
            ++pins.position;
            return;
        }
        *pins.rxd = 0;
        *pins.rx_dv = 0;
        *pins.rx_er = 0;
        pins.queued_bytes -= frame.bytes.size();
        pins.position = 0;
        pins.gap = kInterFrameBytes - 1; // this byte is the gap's first
        pins.queue.pop_front();
    }

    void sample_tx(int index)
    {
        Gmii &pins = port[index];
        if (*pins.tx_en) {
            if (!pins.was_sending) {
                pins.was_sending = true;
                pins.capture.clear();
                pins.capture_flags = pins.idle < uint64_t(kInterFrameBytes) ? kShortGap : 0;
            }
            if (*pins.tx_er)
                pins.capture_flags |= kTxEr;
            if (pins.capture.size() < kMaxCapturedBytes) {
                pins.capture.push_back(*pins.txd);
            } else {
                pins.capture_flags |= kTruncated;
            }
            return;
        }
        if (!pins.was_sending) {
            ++pins.idle;
            return;
        }
        pins.was_sending = false;
        pins.idle = 1;
        TxFrame frame{index, pins.capture_flags, now, {}};
        size_t start = 0;
        while (start < pins.capture.size() && pins.capture[start] == kPreamble)
            ++start;
        if (start != kPreambleBytes || start == pins.capture.size() || pins.capture[start] != kSfd) {
            frame.flags |= kBadPreamble;
        }
        if (start < pins.capture.size() && pins.capture[start] == kSfd)
            ++start;
        const size_t length = pins.capture.size() - start;
        if (length < kMinFrameBytes)
            frame.flags |= kRunt;
        const size_t body = length < 4 ? 0 : length - 4;
        const uint8_t *bytes = pins.capture.data() + start;
        if (length < 4) {
            frame.flags |= kBadFcs;
        } else {
            const uint32_t fcs = uint32_t(bytes[body]) | uint32_t(bytes[body + 1]) << 8 |
                                 uint32_t(bytes[body + 2]) << 16 | uint32_t(bytes[body + 3]) << 24;
            if (fcs != crc32(bytes, body))
                frame.flags |= kBadFcs;
        }
        frame.bytes.assign(bytes, bytes + body);
        if (!in_reset) {
            transmitted.push_back(std::move(frame));
            saw_frame = true;
        }
    }

    // ---- serial line ----

    void drive_uart()
    {
        const double now_cycle = double(cycles);
        if (now_cycle < uart.send_at)
            return;
        if (uart.sending <= 1) {
            if (uart.to_engine.empty())
                return;
            const uint16_t entry = uart.to_engine.front();
            uart.to_engine.pop_front();
            uart.sending = 1u << 10 | 1u << 9 | uint32_t(entry & 0xff) << 1; // start, data, stop
            if (entry >> 8 & kUartBadStop)
                uart.sending = 1u << 11 | 1u << 10 | uint32_t(entry & 0xff) << 1;
            if (entry >> 8 & kUartBreak)
                uart.sending = 1u << 25 | 1u << 24;
            if (uart.send_at < now_cycle - 1.0) // it was idle: no fraction of a cycle to make good
                uart.send_at = now_cycle;
        }
        const uint8_t level = uart.sending & 1;
        uart.sending >>= 1;
        uart.send_at += uart.bit;
        if (*uart.rx != level) {
            *uart.rx = level;
            changed[0] = true;
        }
    }

    void sample_uart()
    {
        const bool level = *uart.tx != 0;
        if (uart.receiving < 0) {
            if (uart.was_high && !level) {
                uart.receiving = 0;
                uart.received = 0;
                uart.sample_at = double(cycles) + uart.bit / 2.0 - 0.5;
            }
        } else if (double(cycles) >= uart.sample_at) {
            uart.received |= uint16_t(level) << uart.receiving;
            uart.sample_at += uart.bit;
            if (++uart.receiving == 10) {
                uart.receiving = -1;
                if ((uart.received & 1) || !(uart.received >> 9 & 1))
                    ++uart.bad_frames;
                uart.from_engine.push_back(uint8_t(uart.received >> 1));
                saw_uart |= uart.from_engine.size() >= uart.wanted;
            }
        }
        uart.was_high = level;
    }

    // ---- flash ----

    // The byte that goes out while the next one comes in.
    uint8_t answer_flash() const
    {
        const std::vector<uint8_t> &r = flash.received;
        const bool busy = cycles < flash.busy_until;
        static const uint8_t id[3] = {0xef, 0x40, 0x18};
        if (r[0] == 0x05)
            return uint8_t(busy | flash.latch << 1);
        if (busy)
            return 0xff;
        if (r[0] == 0x9f)
            return r.size() <= 3 ? id[r.size() - 1] : 0;
        if (r[0] == 0x03 && r.size() >= 4)
            return flash.bytes[(flash_address() + r.size() - 4) % flash.size];
        return 0xff;
    }

    uint64_t flash_address() const
    {
        const std::vector<uint8_t> &r = flash.received;
        return (uint64_t(r[1]) << 16 | uint64_t(r[2]) << 8 | r[3]) % flash.size;
    }

    void execute_flash()
    {
        const std::vector<uint8_t> &r = flash.received;
        if (cycles < flash.busy_until)
            return;
        if (r[0] == 0x06 && r.size() == 1)
            flash.latch = true;
        if (!flash.latch || r.size() < 4)
            return;
        const uint64_t address = flash_address();
        if (r[0] == 0x02 && r.size() > 4) {
            for (size_t n = 4; n < r.size(); ++n)
                flash.bytes[(address & ~255ull) | ((address + n - 4) & 255)] &= r[n];
        } else if ((r[0] == 0x20 || r[0] == 0xd8) && r.size() == 4) {
            const uint64_t unit = r[0] == 0x20 ? 4096 : 65536;
            std::memset(flash.bytes + (address & ~(unit - 1)), 0xff, unit);
        } else {
            return;
        }
        flash.latch = false;
        flash.busy_until = cycles + flash.busy_cycles;
    }

    void serve_flash()
    {
        const bool selected = *flash.cs != 0, high = *flash.clk != 0;
        uint8_t level = *flash.cipo;
        if (selected && !flash.was_selected) {
            flash.bits = 0;
            flash.received.clear();
        } else if (!selected && flash.was_selected) {
            if (flash.bits == 0 && !flash.received.empty())
                execute_flash();
            flash.out = 0xff;
            level = 1;
        } else if (selected && high && !flash.was_high) {
            flash.in = uint8_t(flash.in << 1 | (*flash.copi & 1));
            if (++flash.bits == 8) {
                flash.bits = 0;
                flash.received.push_back(flash.in);
                flash.out = answer_flash();
            }
        } else if (selected && !high && flash.was_high) {
            level = flash.out >> (7 - flash.bits) & 1;
        }
        flash.was_selected = selected;
        flash.was_high = high;
        if (level != *flash.cipo) {
            *flash.cipo = level;
            changed[0] = true;
        }
    }

    // ---- host memory ----

#ifdef TS_STANDALONE
    void serve_host_memory()
    {
        if (!in_reset && flash.bytes != nullptr)
            serve_flash();
        if (in_reset || uart.bit == 0.0)
            return;
        sample_uart();
        drive_uart();
    }

    void before_sync_edge()
    {
    }

    void end_csr()
    {
    }
#else

    void answer_request(HostBus &b)
    {
        changed[0] = true;
        const uint64_t address = uint64_t(*b.adr) * 4;
        b.answered = true;
        b.pending = false;
        b.in_burst = false;
        if (address + 4 > config.memory_bytes) {
            *b.err = 1;
            ++b.errors;
            return;
        }
        uint8_t *place = config.memory + address;
        if (*b.we) {
            for (int n = 0; n < 4; ++n) {
                if (*b.sel >> n & 1)
                    place[n] = uint8_t(*b.dat_w >> (8 * n));
            }
            ++b.writes;
        } else {
            *b.dat_r = uint32_t(place[0]) | uint32_t(place[1]) << 8 | uint32_t(place[2]) << 16 |
                       uint32_t(place[3]) << 24;
            ++b.reads;
        }
        *b.ack = 1;
        if (*b.cti == 2) { // Wishbone B4 clause 4.3: incrementing burst, so the next address is known
            b.in_burst = true;
            b.burst_adr = (*b.adr + 1) & 0x3fffffff;
        }
    }

    void serve(HostBus &b)
    {
        if (in_reset)
            return;
        if (!*b.cyc)
            b.in_burst = false;
        if (!*b.cyc || !*b.stb) {
            if (b.pending)
                report(b.name, "request withdrawn before ack or err");
            b.pending = false;
            return;
        }
        if (!b.pending) {
            if (b.in_burst && *b.adr != b.burst_adr)
                report(b.name, "burst address does not ascend");
            b.pending = true;
            b.wait = config.max_wait ? random.below(config.max_wait + 1) : 0;
            b.saved_adr = *b.adr;
            b.saved_dat = *b.dat_w;
            b.saved_we = *b.we;
            b.saved_sel = *b.sel;
        } else if (b.saved_adr != *b.adr || b.saved_we != *b.we || b.saved_sel != *b.sel ||
                   (*b.we && b.saved_dat != *b.dat_w)) {
            report(b.name, "request changed before ack or err");
        }
        if (b.wait == 0) {
            answer_request(b);
        } else {
            --b.wait;
        }
    }

    void serve_host_memory()
    {
        // Requests must be looked at without the last answer, in case they depend on it.
        bool settle = false;
        for (HostBus &b : bus) {
            if (!b.answered)
                continue;
            *b.ack = 0;
            *b.err = 0;
            *b.dat_r = kIdleData;
            b.answered = false;
            settle = true;
        }
        if (settle) {
            changed[0] = true;
            evaluate();
        }
        for (HostBus &b : bus)
            serve(b);
    }

    // ---- sync domain ----

    void before_sync_edge()
    {
        if (!csr_active)
            return;
        if (top->host_csr___05Fack || top->host_csr___05Ferr) {
            csr_result = top->host_csr___05Fack ? kCsrOk : kCsrErr;
            csr_data = top->host_csr___05Fdat_r;
            csr_done = true;
        }
    }

    void end_csr()
    {
        changed[0] = true;
        top->host_csr___05Fcyc = 0;
        top->host_csr___05Fstb = 0;
        top->host_csr___05Fwe = 0;
        csr_active = false;
    }

#endif

    void after_sync_edge()
    {
        ++cycles;
        if (csr_active && csr_done)
            end_csr();
        serve_host_memory();
        if (top->tick) {
            top->tick = 0;
            changed[0] = true;
        } else if (ticks_pending > 0 && !in_reset) {
            --ticks_pending;
            top->tick = 1;
            changed[0] = true;
        }
        if (!config.external_tick && --tick_left == 0) {
            tick_left = tick_cycles;
            ++ticks_pending;
        }
        const bool level = top->irq != 0;
        if (level && !irq)
            saw_irq = true;
        irq = level;
    }

    // Runs up to and including the next rising edge of sync.
    void step()
    {
        for (;;) {
            int index = 0;
            for (int n = 1; n < kClocks; ++n) {
                if (next[n] < next[index])
                    index = n;
            }
            now = next[index];
            next[index] += period[index];
            const int group = index == 0 ? 0 : (index + 1) / 2;
            if (*clock[index] || changed[group]) {
                *clock[index] = 0;
                evaluate();
            }
            if (index == 0)
                before_sync_edge();
            for (int n = 0; n < kClocks; ++n)
                *clock[n] = 0;
            *clock[index] = 1;
            evaluate();
            if (index == 0) {
                after_sync_edge();
                return;
            }
            if (index & 1) {
                drive_rx(index / 2);
            } else {
                sample_tx(index / 2 - 1);
            }
        }
    }

    int advance(uint64_t count, uint32_t stops)
    {
        saw_frame = false;
        saw_irq = false;
        saw_uart = false;
        for (uint64_t n = 0; n < count; ++n) {
            step();
            if (faults)
                return kReasonFault;
            if (saw_frame && (stops & kStopFrame))
                return kReasonFrame;
            if (saw_irq && (stops & kStopIrq))
                return kReasonIrq;
            if (saw_uart && (stops & kStopUart))
                return kReasonUart;
            if (context.gotFinish())
                return kReasonFinish;
        }
        return kReasonCycles;
    }
};

// ---- C ABI ----

TS_API uint32_t ts_abi()
{
    return kAbi;
}

TS_API uint32_t ts_ports()
{
    return TS_PORTS;
}

TS_API ts_model *ts_create(const ts_config *config)
{
    try {
        return new ts_model(*config);
    } catch (...) {
        return nullptr;
    }
}

TS_API void ts_destroy(ts_model *model)
{
    delete model;
}

// Runs `cycles` cycles of sync, or fewer when a stop condition in `stops` occurs. Returns the reason.
TS_API int ts_run(ts_model *model, uint64_t cycles, uint32_t stops)
{
    return model->advance(cycles, stops);
}

TS_API uint64_t ts_cycles(const ts_model *model)
{
    return model->cycles;
}

TS_API uint64_t ts_time_ns(const ts_model *model)
{
    return model->now / 1000000u;
}

TS_API int ts_irq(const ts_model *model)
{
    return model->irq;
}

// One access to the host's CSR target; `sel` are byte enables. Returns 0, 1 for a bus error, 2 for no answer.
TS_API int ts_csr(ts_model *model, int write, uint32_t byte_address, uint32_t sel, uint32_t data,
                  uint64_t max_cycles, uint32_t *result)
{
#ifdef TS_STANDALONE
    (void)model, (void)write, (void)byte_address, (void)sel, (void)data, (void)max_cycles, (void)result;
    return kCsrErr;
#else
    Vengine &top = *model->top;
    top.host_csr___05Fadr = (byte_address >> 2) & 0x1fff;
    top.host_csr___05Fwe = write != 0;
    top.host_csr___05Fsel = sel & 0xf;
    top.host_csr___05Fdat_w = data;
    top.host_csr___05Fcti = 0;
    top.host_csr___05Fcyc = 1;
    top.host_csr___05Fstb = 1;
    model->changed[0] = true;
    model->csr_active = true;
    model->csr_done = false;
    for (uint64_t n = 0; n < max_cycles && !model->csr_done; ++n)
        model->step();
    if (!model->csr_done) {
        model->end_csr();
        return kCsrTimeout;
    }
    *result = model->csr_data;
    return model->csr_result;
#endif
}

// Sets the cycles of a bit on the far end's side of the serial line (a fraction is allowed).
TS_API void ts_uart_rate(ts_model *model, double cycles)
{
    model->uart.bit = cycles;
}

// Puts a flash at the engine's pins: `size` bytes of the caller's, a multiple of 65536; each write takes `busy_cycles`.
TS_API void ts_flash(ts_model *model, uint8_t *bytes, uint64_t size, uint64_t busy_cycles)
{
    model->flash.bytes = bytes;
    model->flash.size = size;
    model->flash.busy_cycles = busy_cycles;
}

// Queues bytes for the engine's receiver; UartFlags spoil each of them.
TS_API void ts_uart_push(ts_model *model, const uint8_t *bytes, uint64_t length, uint32_t flags)
{
    for (uint64_t n = 0; n < length; ++n)
        model->uart.to_engine.push_back(uint16_t(bytes[n] | flags << 8));
}

// Bytes that the engine's receiver has not begun to get.
TS_API uint64_t ts_uart_backlog(const ts_model *model)
{
    return model->uart.to_engine.size();
}

// Bytes that the engine has sent and nobody has taken.
TS_API uint64_t ts_uart_waiting(const ts_model *model)
{
    return model->uart.from_engine.size();
}

// Takes up to `capacity` bytes that the engine has sent. Returns how many.
TS_API uint64_t ts_uart_pop(ts_model *model, uint8_t *bytes, uint64_t capacity)
{
    uint64_t count = 0;
    for (; count < capacity && !model->uart.from_engine.empty(); ++count) {
        bytes[count] = model->uart.from_engine.front();
        model->uart.from_engine.pop_front();
    }
    return count;
}

// kStopUart stops when so many bytes can be taken.
TS_API void ts_uart_want(ts_model *model, uint64_t count)
{
    model->uart.wanted = count;
}

// Frames of the engine with a bad start or stop bit.
TS_API uint64_t ts_uart_bad_frames(const ts_model *model)
{
    return model->uart.bad_frames;
}

// Changes the frequency of both clocks of a port. Returns 0, or -1 for a wrong port or frequency.
TS_API int ts_port_hz(ts_model *model, int port, uint64_t hz)
{
    if (port < 0 || port >= TS_PORTS || hz == 0)
        return -1;
    model->set_clock(1 + 2 * port, hz, model->config.rx_ppm[port]);
    model->set_clock(2 + 2 * port, hz, model->config.tx_ppm[port]);
    return 0;
}

// Makes one pulse on `tick`; pulses that come faster than the clock allows are kept.
TS_API void ts_tick(ts_model *model)
{
    ++model->ticks_pending;
}

// Queues a frame for the receive pins. Returns 0, or -1 for a wrong port or an empty frame.
TS_API int ts_frame_push(ts_model *model, int port, const uint8_t *bytes, uint64_t length, uint32_t flags)
{
    if (port < 0 || port >= TS_PORTS || length == 0)
        return -1;
    RxFrame frame;
    frame.error_at = SIZE_MAX;
    if (flags & kPushRaw) {
        frame.bytes.assign(bytes, bytes + length);
    } else {
        frame.bytes.reserve(length + kPreambleBytes + 1 + 4);
        frame.bytes.assign(kPreambleBytes, kPreamble);
        frame.bytes.push_back(kSfd);
        frame.bytes.insert(frame.bytes.end(), bytes, bytes + length);
        const uint32_t fcs = crc32(bytes, length) ^ ((flags & kPushBadFcs) ? 0x01000000u : 0u);
        for (int n = 0; n < 4; ++n)
            frame.bytes.push_back(uint8_t(fcs >> (8 * n)));
    }
    if (flags & kPushRxEr)
        frame.error_at = frame.bytes.size() / 2;
    model->port[port].queued_bytes += frame.bytes.size();
    model->port[port].queue.push_back(std::move(frame));
    return 0;
}

// Bytes queued for the receive pins of a port, the frame under way included.
TS_API uint64_t ts_frame_backlog(const ts_model *model, int port)
{
    return port < 0 || port >= TS_PORTS ? 0 : model->port[port].queued_bytes;
}

// Takes the oldest transmitted frame, without preamble and FCS. Returns its length, or -1 when there is none.
TS_API int64_t ts_frame_pop(ts_model *model, uint8_t *bytes, uint64_t capacity, int *port, uint32_t *flags,
                            uint64_t *time_ns)
{
    if (model->transmitted.empty())
        return -1;
    const TxFrame &frame = model->transmitted.front();
    const uint64_t length = frame.bytes.size() < capacity ? frame.bytes.size() : capacity;
    std::memcpy(bytes, frame.bytes.data(), length);
    *port = frame.port;
    *flags = frame.flags | (length < frame.bytes.size() ? uint32_t(kTruncated) : 0u);
    *time_ns = frame.time_fs / 1000000u;
    model->transmitted.pop_front();
    return int64_t(length);
}

// Host memory words read, written, and accesses answered with err; bus 0 is host_read, 1 is host_write.
TS_API void ts_bus_counts(const ts_model *model, int bus, uint64_t *reads, uint64_t *writes, uint64_t *errors)
{
#ifdef TS_STANDALONE
    (void)model, (void)bus;
    *reads = *writes = *errors = 0;
#else
    const HostBus &b = model->bus[bus & 1];
    *reads = b.reads;
    *writes = b.writes;
    *errors = b.errors;
#endif
}

// Violations of the bus protocol by the engine; the text tells the first. Clears them.
TS_API uint64_t ts_faults(ts_model *model, char *text, uint64_t capacity)
{
    const uint64_t count = model->faults;
    if (count && capacity) {
        std::snprintf(text, capacity, "%s", model->fault.c_str());
        model->faults = 0;
        model->fault.clear();
    }
    return count;
}
