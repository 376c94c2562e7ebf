// Divides work among threads.
#ifndef PRECAST_THREADS_H
#define PRECAST_THREADS_H

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace precast {

// Work items for each thread: the more there are, the shorter the wait for the last thread.
constexpr int64_t SHARES = 32;

struct Share {
  int64_t begin, end;
};

// One of `threads` even shares of `count` pieces.
inline Share share_of(int64_t count, int64_t thread, int64_t threads) {
  return {count * thread / threads, count * (thread + 1) / threads};
}

// Uninitialized memory, aligned to a cache line. A decode step does so little work between two barriers that an
// allocation would be a significant part of it: small sizes are on the stack.
template <class Number>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : many_(count > FEW ? allocated(count) : nullptr), at_(many_ ? many_.get() : reinterpret_cast<Number*>(few_)) {}
  Scratch(const Scratch&) = delete;
  Number* get() const { return at_; }
  Number& operator[](int64_t index) const { return at_[index]; }

 private:
  static constexpr int64_t FEW = 16384 / sizeof(Number);
  struct Free {
    void operator()(Number* memory) const { std::free(memory); }
  };
  static Number* allocated(int64_t count) {
    return static_cast<Number*>(std::aligned_alloc(64, (count * sizeof(Number) + 63) / 64 * 64));
  }

  std::unique_ptr<Number[], Free> many_;
  Number* at_;
  alignas(64) std::byte few_[FEW * sizeof(Number)];
};

}  // namespace precast

#endif
