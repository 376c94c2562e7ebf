// LayerNorm and RMSNorm over rows, with statistics in fp32.
#ifndef PRECAST_NORM_H
#define PRECAST_NORM_H

#include <cmath>

#include "threads.h"
#include "vector.h"

namespace precast {

// Up to this size one thread does all the work: in a decode step, synchronizing threads would take longer.
constexpr int64_t FOR_ONE_THREAD = 32768;

// x is [rows][groups][size] with these strides and a contiguous last dimension; y is contiguous.
struct NormSizes {
  int64_t rows, groups, size, row_stride, group_stride;
};

// The sum of `term(at, live)` over a row, 16 numbers at a time; `live` masks the numbers within the row.
template <class Term>
inline float sum_over(int64_t size, const Term& term) {
  __m512 sums[4] = {};
  int64_t at = 0;
  for (; at + 4 * LANES <= size; at += 4 * LANES)
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) sums[part] = _mm512_add_ps(sums[part], term(at + part * LANES, 0xffff));
  for (; at < size; at += LANES) sums[0] = _mm512_add_ps(sums[0], term(at, first_lanes(size - at)));
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

template <bool CENTERED, class Number>
inline void norm_row(const Number* x, const float* weight, const float* bias, Number* y, int64_t size, float eps) {
  const auto numbers = [x](int64_t at, __mmask16 live) { return load(x + at, live); };
  const __m512 mean = _mm512_set1_ps(CENTERED ? sum_over(size, numbers) / size : 0.0f);
  const auto squares = [x, mean](int64_t at, __mmask16 live) {
    const __m512 value = _mm512_maskz_sub_ps(live, load(x + at, live), mean);
    return _mm512_mul_ps(value, value);
  };
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(sum_over(size, squares) / size + eps));
  for (int64_t at = 0; at < size; at += LANES) {
    const __mmask16 live = first_lanes(size - at);
    const __m512 value = _mm512_mul_ps(_mm512_sub_ps(load(x + at, live), mean), scale);
    const __m512 shift = bias == nullptr ? _mm512_setzero_ps() : load(bias + at, live);
    store(y + at, _mm512_fmadd_ps(value, load(weight + at, live), shift), live);
  }
}

// Args: `x` and `y` as described at `NormSizes`; `weight` [size]; `bias` [size] or null; CENTERED for LayerNorm.
template <bool CENTERED, class Number>
inline void norm(const Number* x, const float* weight, const float* bias, Number* y, NormSizes sizes, float eps) {
  const int64_t count = sizes.rows * sizes.groups;
#pragma omp parallel if (count * sizes.size > FOR_ONE_THREAD)
  {
    const Share share = share_of(count, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t at = share.begin; at < share.end; ++at) {
      const Number* row = x + at / sizes.groups * sizes.row_stride + at % sizes.groups * sizes.group_stride;
      norm_row<CENTERED>(row, weight, bias, y + at * sizes.size, sizes.size, eps);
    }
  }
}

}  // namespace precast

#endif
