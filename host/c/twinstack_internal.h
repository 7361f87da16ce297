/* What the files of the C host library share. Not for applications. */
#ifndef TWINSTACK_INTERNAL_H
#define TWINSTACK_INTERNAL_H

#include "twinstack.h"
#include "twinstack_abi.h"

#define TS_RESULT_BYTES 512u /* Space for what operations write: the longest is a block of DISPATCH_CONFIG. */

/* A field of a block of words, by its name in twinstack_abi.h. */
#define TS_SET(words, field, value) ((words)[field##_WORD] |= TS_PUT(field, value))
#define TS_READ(words, field)       TS_WORD_GET(words, field)

/* Registers of the manager's page, where the host finds them. */
#define TS_HOST_VIEW(address) ((address)-TS_CSR_MANAGER_BASE + TS_HOST_MANAGER_BASE)

/* Bytes in wire order from and to little-endian words. */
void ts_put_bytes(uint32_t *words, uint32_t word, const uint8_t *bytes, size_t length);
void ts_get_bytes(const uint32_t *words, uint32_t word, uint8_t *bytes, size_t length);
uint64_t ts_get64(const uint32_t *words, uint32_t word);

/* Words in host memory, at most TS_RESULT_BYTES. */
void ts_write_words(ts_device *device, uint32_t address, const uint32_t *words, size_t count);
void ts_read_words(ts_device *device, uint32_t address, uint32_t *words, size_t count);

void ts_pack_address(uint32_t words[8], const ts_address *address);
void ts_unpack_address(const uint32_t words[8], ts_address *address);

/* An entry of which all else is zero. */
ts_entry ts_entry_for(uint8_t operation, uint32_t handle);

/* Run an operation that writes `count` words to the result space. */
int32_t ts_call_for_words(ts_device *device, ts_entry *entry, uint32_t *words, size_t count,
                          uint32_t timeout_ms);

/* Submit without a record: nobody learns the result. */
int ts_submit_detached(ts_device *device, const ts_entry *entry);

#endif
