// The two terms of log-softmax for rows of scores: the maximum, and the logarithm of the sum of exp(score - maximum).
#ifndef PRECAST_LOG_SOFTMAX_H
#define PRECAST_LOG_SOFTMAX_H

#include "threads.h"
#include "vector.h"

namespace precast {

// Reduces a row: `step(sum, numbers)` for 16 numbers at a time, and `join` of four sums that begin with `start`.
// The last 16 are padded with -infinity.
template <class Step, class Join>
inline __m512 over_row(const float* row, int64_t size, __m512 start, Step step, Join join) {
  const __m512 nothing = _mm512_set1_ps(-INFINITY);
  __m512 a = start, b = start, c = start, d = start;
  int64_t at = 0;
  for (; at + 4 * LANES <= size; at += 4 * LANES) {
    a = step(a, load(row + at));
    b = step(b, load(row + at + LANES));
    c = step(c, load(row + at + 2 * LANES));
    d = step(d, load(row + at + 3 * LANES));
  }
  for (; at < size; at += LANES) a = step(a, _mm512_mask_loadu_ps(nothing, first_lanes(size - at), row + at));
  return join(join(a, b), join(c, d));
}

inline float largest_of(const float* row, int64_t size) {
  const auto larger = [](__m512 found, __m512 numbers) { return _mm512_max_ps(numbers, found); };
  return _mm512_reduce_max_ps(over_row(row, size, _mm512_set1_ps(-INFINITY), larger, larger));
}

// The sum of exp(number - shift); NaN if any number is.
inline float total_of(const float* row, int64_t size, float shift) {
  const __m512 by = _mm512_set1_ps(shift);
  const auto add = [by](__m512 sum, __m512 numbers) {
    return _mm512_add_ps(sum, exponential<float>(_mm512_sub_ps(numbers, by)));
  };
  const auto join = [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); };
  return _mm512_reduce_add_ps(over_row(row, size, _mm512_setzero_ps(), add, join));
}

// Args: `scores` [R][size]; `rows` [count]; `wanted` [count], false gives zeros; `output` [2][count].
inline void log_softmax_terms(const float* scores, const int64_t* rows, const bool* wanted, float* output,
                              int64_t count, int64_t size) {
#pragma omp parallel
  {
    const Share share = share_of(count, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t at = share.begin; at < share.end; ++at) {
      const float* row = scores + rows[at] * size;
      const float largest = wanted[at] ? largest_of(row, size) : 0.0f;
      output[at] = largest;
      output[count + at] = wanted[at] ? std::log(total_of(row, size, largest)) : 0.0f;
    }
  }
}

}  // namespace precast

#endif
