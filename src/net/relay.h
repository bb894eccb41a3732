// Bytes from each of two streams to the other, until both directions have ended.
//
//     one ====> buffer ====> other        an end in one direction is passed on (shutdown_write)
//     one <==== buffer <==== other        while the other direction goes on
//
// A stream that is lost is at its end; what still comes for it is thrown away, while what it said
// last is carried. Once one direction has ended the other has `patience` left: long enough for last
// words, and for whoever is gone without a word not to keep it for ever. Throws what is not a loss.
#pragma once

#include "net/stream.h"

namespace telefork::net {

void relay(Stream& one, Stream& other, Deadline::Clock::duration patience);

}  // namespace telefork::net
