// Sums and maxima over the rows of each sequence of a packed batch.
#ifndef PRECAST_POOL_H
#define PRECAST_POOL_H

#include <limits>

#include "vector.h"

namespace precast {

struct Total {
  static __m512 start() { return _mm512_setzero_ps(); }
  static __m512 add(__m512 sum, __m512 row) { return _mm512_add_ps(sum, row); }
};

struct Largest {
  static __m512 start() { return _mm512_set1_ps(std::numeric_limits<float>::lowest()); }
  // Propagates NaN, as torch does.
  static __m512 add(__m512 found, __m512 row) {
    const __mmask16 nan = _mm512_cmp_ps_mask(row, row, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(_mm512_max_ps(row, found), nan, row);
  }
};

// Args: `rows` [T][columns]; `begin` and `end` [sequences]; `weight` [T] or null; `output` [sequences][columns].
template <class Way, class Number>
inline void pool_sequences(const Number* rows, const int64_t* begin, const int64_t* end, const float* weight,
                           float* output, int64_t sequences, int64_t columns) {
#pragma omp parallel for schedule(static)
  for (int64_t sequence = 0; sequence < sequences; ++sequence)
    for (int64_t column = 0; column < columns; column += LANES) {
      const __mmask16 live = first_lanes(columns - column);
      __m512 found = Way::start();
      for (int64_t row = begin[sequence]; row < end[sequence]; ++row) {
        __m512 value = load(rows + row * columns + column, live);
        if (weight != nullptr) value = _mm512_mul_ps(value, _mm512_set1_ps(weight[row]));
        found = Way::add(found, value);
      }
      store(output + sequence * columns + column, found, live);
    }
}

}  // namespace precast

#endif
