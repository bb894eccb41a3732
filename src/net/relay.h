// Bytes from each of two streams to the other, until both directions have ended.
//
//     one ====> buffer ====> other        an end in one direction is passed on (shutdown_write)
//     one <==== buffer <==== other        while the other direction goes on
//
// A stream that is lost, or an `other`, a socket, whose other end has closed without having shut
// down its side, ends it, once what it said last is carried: the other one is closed then
// (POLLHUP), and was not told of an end in good order. Once one direction has ended the other has
// `patience` left: long enough for last words, and for whoever is gone without a word not to keep
// it for ever. Throws what is not a loss.
#pragma once

#include "net/stream.h"

namespace telefork::net {

void relay(Stream& one, Stream& other, Deadline::Clock::duration patience);

}  // namespace telefork::net
