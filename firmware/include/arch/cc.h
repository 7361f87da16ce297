/* Compiler and CPU of the lwIP port: a freestanding little-endian RV32 core, or the PC for tests. */
#ifndef ARCH_CC_H
#define ARCH_CC_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#define LWIP_NO_UNISTD_H   1
#define LWIP_NO_INTTYPES_H 1
#define LWIP_NO_CTYPE_H    1
#ifdef TWINSTACK_HOST
#include <sys/types.h>
#elif !defined(SSIZE_MAX)
typedef int ssize_t;
#define SSIZE_MAX INT_MAX
#endif

#define X8_F  "02x"
#define U16_F "u"
#define S16_F "d"
#define X16_F "x"
#define U32_F "u"
#define S32_F "d"
#define X32_F "x"
#define SZT_F "u"

/* A failed assertion of lwIP stops the core with its address on the console (on the PC: aborts the test with its text; text
 * or line numbers would take kilobytes of code memory here). */
void platform_panic(const char *text) __attribute__((noreturn, cold));
void platform_assertion(void) __attribute__((noreturn, cold));
#ifdef TWINSTACK_HOST
#define LWIP_PLATFORM_ASSERT(text) platform_panic(text)
#else
#define LWIP_PLATFORM_ASSERT(text) platform_assertion()
#endif
#define LWIP_PLATFORM_DIAG(x)                                                                                \
    do {                                                                                                     \
    } while (0)

uint32_t platform_random(void);
#define LWIP_RAND() platform_random()

#ifndef BYTE_ORDER
#define BYTE_ORDER LITTLE_ENDIAN
#endif

/* Inline byte swaps on the way of every segment: the study measured -14 % instructions together with aligned headers. */
#ifndef CC_SMALL
static inline __attribute__((always_inline)) uint32_t cc_swap32(uint32_t x)
{
    uint32_t mask = 0x00ff00ffu;
    uint32_t swapped = ((x >> 8) & mask) | ((x & mask) << 8);
    return (swapped >> 16) | (swapped << 16);
}

static inline __attribute__((always_inline)) uint16_t cc_swap16(uint16_t x)
{
    return (uint16_t)((x << 8) | (x >> 8));
}

#define lwip_htonl(x) cc_swap32(x)
#define lwip_htons(x) cc_swap16((uint16_t)(x))
#endif

#define PACK_STRUCT_BEGIN
/* Headers are at least 2-byte aligned (ETH_PAD_SIZE 2), so fields need not be read byte by byte. lwip_init()
 * tests packing with a structure of odd size, which no header is: its file is compiled with the exact form.
 */
#if defined(TWINSTACK_HOST) || defined(CC_PACKED_EXACT)
#define PACK_STRUCT_STRUCT __attribute__((packed))
#else
#define PACK_STRUCT_STRUCT __attribute__((packed, aligned(2)))
#endif
#define PACK_STRUCT_END
#define PACK_STRUCT_FIELD(x) x

#endif
