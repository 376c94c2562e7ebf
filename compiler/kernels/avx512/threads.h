// What a thread's share of some work is.
#ifndef PRECAST_THREADS_H
#define PRECAST_THREADS_H

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace precast {

// Of the work, for each thread: the more, the less a thread waits for the last one.
constexpr int64_t SHARES = 32;

struct Share {
  int64_t begin, end;
};

// One of `threads` even shares of `count` pieces.
inline Share share_of(int64_t count, int64_t thread, int64_t threads) {
  return {count * thread / threads, count * (thread + 1) / threads};
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <class Number>
using Scratch = std::unique_ptr<Number[], Free>;

// Uninitialised, at the start of a cache line.
template <class Number>
inline Scratch<Number> scratch(int64_t count) {
  const size_t bytes = (std::max<int64_t>(count, 1) * sizeof(Number) + 63) / 64 * 64;
  return Scratch<Number>(static_cast<Number*>(std::aligned_alloc(64, bytes)));
}

}  // namespace precast

#endif
