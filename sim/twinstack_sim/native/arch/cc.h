/* Compiler and platform for lwIP on the PC (a peer on simulated time). lwIP's arch.h has right defaults for the rest. */
#ifndef TWINSTACK_PEER_CC_H
#define TWINSTACK_PEER_CC_H

#include <stdint.h>

/* Both are drawn from the peer's seed, so that a run can be repeated; see peer.c. */
uint32_t peer_random(void);

#define LWIP_RAND() peer_random()

#endif
